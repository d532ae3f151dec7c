// SPDX-License-Identifier: EUPL-1.2
//! The lines of a file, each by way of the adapter that it names.

use ingle::TextModel;
use serde_json::Value;

use crate::Failure;
use crate::input::Entry;

/// The lines of a file, shared among handles to one model. What all handles are given is computed together.
pub struct ByAdapter {
    models: Vec<Box<dyn TextModel>>,
    /// Which handle each line goes to.
    order: Vec<usize>,
}

impl ByAdapter {
    /// A line whose `adapter` is a name goes through the adapter of that name; `null` is the model without one; one that
    /// says nothing goes to `model` as it is.
    ///
    /// # Errors
    /// An adapter that the model was not loaded with, by the number of its line.
    pub fn new(model: Box<dyn TextModel>, entries: &[Entry]) -> Result<Self, Failure> {
        let (mut models, mut choices) = (vec![model], vec![None]);
        let mut order = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let choice = match entry {
                Entry::Object(object) => object.get("adapter"),
                Entry::Text(_) => None,
            };
            let known = choices.iter().position(|known| *known == choice);
            order.push(match known {
                Some(known) => known,
                None => {
                    let named = |error: String| Failure::from(format!("entry {}: {error}", index + 1));
                    let adapter = match choice {
                        Some(Value::String(name)) => Some(name.as_str()),
                        Some(Value::Null) | None => None,
                        Some(other) => return Err(named(format!("adapter: expected a name or null, found {other}"))),
                    };
                    models.push(models[0].adapted(adapter).map_err(|error| named(error.to_string()))?);
                    choices.push(choice);
                    models.len() - 1
                }
            });
        }
        Ok(ByAdapter { models, order })
    }

    /// What `begin` gives for `items`, one for each line, in the order of the lines: it is called once for each handle,
    /// with all that go there.
    ///
    /// # Errors
    /// Those of `begin`.
    pub fn run<'a, T, R>(
        &'a self,
        items: Vec<T>,
        begin: impl Fn(&'a dyn TextModel, Vec<T>) -> ingle::Result<Box<dyn Iterator<Item = R> + Send + 'a>>,
    ) -> Result<impl Iterator<Item = R>, Failure> {
        let mut shares: Vec<Vec<T>> = self.models.iter().map(|_| Vec::new()).collect();
        for (item, share) in items.into_iter().zip(&self.order) {
            shares[*share].push(item);
        }
        let begun = self.models.iter().zip(shares).map(|(model, share)| begin(model.as_ref(), share));
        let mut results = begun.collect::<ingle::Result<Vec<_>>>()?;
        Ok(self.order.iter().map_while(move |share| results[*share].next()))
    }
}
