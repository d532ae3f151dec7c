// SPDX-License-Identifier: EUPL-1.2
//! How a ragged batch becomes padded ones.

use std::sync::Arc;

use ingle_tensor::{Error, PagedAttention, Result};

use super::index;
use crate::array::{Array, int};
use crate::bridge;

/// What a plan depends on beside the tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Key {
    block_size: usize,
    window: Option<usize>,
    scale: f32,
    /// Capped scores are composed, with a mask as an array.
    soft_cap: Option<f32>,
    /// Slots of the cache.
    slots: usize,
    kernel: Kernel,
}

/// What can compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// MLX's, of padded batches.
    Padded,
    /// Ours, too, which reads the tables.
    Paged,
}

impl Key {
    pub(crate) fn new(parameters: &PagedAttention, slots: usize, kernel: Kernel) -> Self {
        let PagedAttention { block_size, window, scale, soft_cap, .. } = *parameters;
        Key { block_size, window, scale, soft_cap, slots, kernel }
    }
}

/// The step's tables as numbers.
pub(crate) struct Places {
    /// `[S, B]`, row-major.
    pub(crate) blocks: Arc<[i32]>,
    /// `[S, B]`.
    pub(crate) table: [usize; 2],
    pub(crate) sequences: Arc<[i32]>,
    pub(crate) positions: Arc<[i32]>,
}

/// How a ragged batch is computed.
#[derive(Debug)]
pub(crate) enum Plan {
    /// As it is.
    Paged {
        /// Groups of threads among which a query's keys are shared out.
        warps: i32,
        /// What else the kernel is told: see `bridge::paged_attention`.
        how: Array,
    },
    /// As padded batches.
    Padded {
        groups: Vec<Group>,
        /// Which row of the groups' results, one after the other, each token has; none if they are in order.
        order: Option<Array>,
    },
}

/// Sequences padded to a common length.
#[derive(Debug)]
pub(crate) struct Group {
    /// Sequences.
    pub(crate) batch: usize,
    /// Queries of each.
    pub(crate) query_len: usize,
    /// Keys of each.
    pub(crate) key_len: usize,
    /// Which tokens the queries are, `[B · T]`.
    pub(crate) queries: Rows,
    /// Which slots the keys lie in, `[B · L]`.
    pub(crate) keys: Rows,
    pub(crate) mask: Mask,
}

/// Rows of a tensor.
#[derive(Debug)]
pub(crate) enum Rows {
    All,
    Range { start: usize, end: usize },
    At(Array),
}

/// Which keys a query sees.
#[derive(Debug)]
pub(crate) enum Mask {
    /// All of them.
    None,
    /// Of `T` queries and `L` keys, query `t` sees the first `L − T + 1 + t`.
    Causal,
    /// Where this holds: `bool[B, 1, T, L]`.
    At(Array),
}

/// A sequence of the batch.
struct Member {
    sequence: usize,
    /// Its tokens, as rows of the batch.
    tokens: Vec<usize>,
    /// The positions that any of them sees.
    keys: std::ops::Range<usize>,
}

/// Keys that a query goes through in no time.
const SHORT: usize = 128;

/// Queries for which going through all the keys, each by itself, costs less than making a batch of them, and how many
/// keys at most.
const FEW: (usize, usize) = (4, 8192);

impl Member {
    /// Whether each of its queries may go through the keys by itself.
    fn is_short(&self) -> bool {
        let (queries, keys) = FEW;
        self.keys.len() <= SHORT || (self.tokens.len() <= queries && self.keys.len() <= keys)
    }
}

/// Cells of a score matrix that cost less than another call of the kernel.
const CHEAP: usize = 1 << 16;

impl Plan {
    /// # Errors
    /// [`Error::Index`] for a sequence, a position or a block that is not there.
    pub(crate) fn new(op: &'static str, places: &Places, key: Key) -> Result<Plan> {
        let mut members = members(op, places, key)?;
        if key.kernel == Kernel::Paged && members.iter().all(Member::is_short) {
            let few = longest(&members, |member| member.keys.len()) <= SHORT;
            // A window wider than positions can be is none.
            let window = key.window.and_then(|window| i32::try_from(window).ok()).unwrap_or(0);
            let [scale, cap] = [key.scale, key.soft_cap.unwrap_or(0.0)].map(|number| number.to_bits() as i32);
            let how = index(op, &[int(op, key.block_size)?, window, scale, cap], &[4])?;
            return Ok(Plan::Paged { warps: if few { 4 } else { 16 }, how });
        }
        members.sort_by_key(|member| (member.tokens.len(), member.keys.len()));
        let mut groups = Vec::new();
        let mut rows = vec![0; places.positions.len()];
        let mut offset = 0;
        let mut rest = members.as_mut_slice();
        while !rest.is_empty() {
            let count = fitting(rest);
            let (together, others) = std::mem::take(&mut rest).split_at_mut(count);
            // As they stand in the batch: one group of all of them needs no reordering then.
            together.sort_by_key(|member| member.tokens.first().copied());
            let query_len = longest(together, |member| member.tokens.len());
            for (row, member) in together.iter().enumerate() {
                for (at, &token) in member.tokens.iter().enumerate() {
                    rows[token] = (offset + row * query_len + at) as i32;
                }
            }
            offset += together.len() * query_len;
            groups.push(group(op, places, key, together)?);
            rest = others;
        }
        let in_order = offset == rows.len() && rows.iter().enumerate().all(|(token, &row)| row as usize == token);
        let order = if in_order { None } else { Some(index(op, &rows, &[rows.len()])?) };
        Ok(Plan::Padded { groups, order })
    }
}

fn longest(members: &[Member], length: impl Fn(&Member) -> usize) -> usize {
    members.iter().map(length).max().unwrap_or(0)
}

/// How many of the first members, which are the shortest, are better padded together than called apart.
fn fitting(members: &[Member]) -> usize {
    let (mut cells, mut fits) = (0, 0);
    for (more, member) in members.iter().enumerate() {
        cells += member.tokens.len() * member.keys.len();
        let own = longest(&members[..=more], |member| member.keys.len());
        let padded = (more + 1) * member.tokens.len() * own;
        if more > 0 && padded > 2 * cells + CHEAP {
            break;
        }
        fits = more + 1;
    }
    fits
}

/// The sequences that have tokens, checked.
fn members(op: &'static str, places: &Places, key: Key) -> Result<Vec<Member>> {
    let [sequences, width] = places.table;
    let positions = width.saturating_mul(key.block_size);
    let within = |index: i32, len: usize| match usize::try_from(index) {
        Ok(place) if place < len => Ok(place),
        _ => Err(Error::Index { op, index: index.into(), len }),
    };
    let mut members: Vec<Member> = Vec::new();
    let mut member_of = vec![None; sequences];
    for (token, (&sequence, &position)) in places.sequences.iter().zip(places.positions.iter()).enumerate() {
        let (sequence, position) = (within(sequence, sequences)?, within(position, positions)?);
        let first = key.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let at = *member_of[sequence].get_or_insert_with(|| {
            members.push(Member { sequence, tokens: Vec::new(), keys: first..0 });
            members.len() - 1
        });
        let member = &mut members[at];
        member.tokens.push(token);
        member.keys = member.keys.start.min(first)..member.keys.end.max(position + 1);
    }
    let blocks = key.slots / key.block_size;
    for member in &members {
        let needed = member.keys.start / key.block_size..member.keys.end.div_ceil(key.block_size);
        for &block in &places.blocks[member.sequence * width..][needed] {
            within(block, blocks)?;
        }
    }
    Ok(members)
}

fn group(op: &'static str, places: &Places, key: Key, members: &[Member]) -> Result<Group> {
    let batch = members.len();
    let query_len = longest(members, |member| member.tokens.len());
    let key_len = longest(members, |member| member.keys.len());
    let (mut queries, mut slots) = (Vec::new(), Vec::new());
    let (mut query_positions, mut key_positions) = (Vec::new(), Vec::new());
    for member in members {
        let own = member.tokens.iter().map(|&token| (token as i32, places.positions[token]));
        // Padding repeats what is there, as a query whose result nobody takes and a key that nobody sees.
        extend_padded(&mut queries, own.clone().map(|(token, _)| token), query_len);
        extend_padded(&mut query_positions, own.map(|(_, position)| position), query_len);
        let table = &places.blocks[member.sequence * places.table[1]..];
        let slot = |position: usize| {
            (table[position / key.block_size] as usize * key.block_size + position % key.block_size) as i32
        };
        extend_padded(&mut slots, member.keys.clone().map(slot), key_len);
        key_positions.extend(member.keys.clone().map(|position| position as i32));
        key_positions.extend(std::iter::repeat_n(i32::MAX, key_len - member.keys.len()));
    }
    let mask = match plain_mask(places, key, members, [query_len, key_len]) {
        Some(mask) => mask,
        None => {
            let queries = index(op, &query_positions, &[batch, 1, query_len, 1])?;
            let keys = index(op, &key_positions, &[batch, 1, 1, key_len])?;
            let window = key.window.and_then(|window| i32::try_from(window).ok()).unwrap_or(i32::MAX);
            Mask::At(Array::new(op, bridge::visible(queries.get(), keys.get(), window))?)
        }
    };
    let queries = rows(op, &queries, places.positions.len())?;
    let keys = rows(op, &slots, key.slots)?;
    Ok(Group { batch, query_len, key_len, queries, keys, mask })
}

fn extend_padded(list: &mut Vec<i32>, own: impl Iterator<Item = i32>, len: usize) {
    let end = list.len() + len;
    list.extend(own);
    let last = list.last().copied().unwrap_or(0);
    list.resize(end, last);
}

/// The mask, if it needs no array.
fn plain_mask(places: &Places, key: Key, members: &[Member], [query_len, key_len]: [usize; 2]) -> Option<Mask> {
    if key.soft_cap.is_some() {
        return None;
    }
    let exact = |member: &Member| member.tokens.len() == query_len && member.keys.len() == key_len;
    if query_len == 1 && members.iter().all(exact) {
        return Some(Mask::None);
    }
    // Queries at the last positions, one after the other, that see everything before them.
    let trailing = |member: &Member| {
        let first = member.keys.end - member.tokens.len().min(member.keys.end);
        let follow = |(at, &token): (usize, &usize)| places.positions[token] as usize == first + at;
        let sees_all = member.keys.start == 0 && key.window.is_none_or(|window| member.keys.end <= window);
        sees_all && member.tokens.iter().enumerate().all(follow)
    };
    let whole = |member: &Member| member.tokens.len() == member.keys.len();
    let aligned = members.iter().all(exact) || members.iter().all(whole);
    (aligned && members.iter().all(trailing)).then_some(Mask::Causal)
}

/// Rows by number, of `all`.
fn rows(op: &'static str, numbers: &[i32], all: usize) -> Result<Rows> {
    let first = numbers.first().copied().unwrap_or(0) as usize;
    let follow = numbers.iter().enumerate().all(|(at, &number)| number as usize == first + at);
    match follow {
        true if first == 0 && numbers.len() == all => Ok(Rows::All),
        true => Ok(Rows::Range { start: first, end: first + numbers.len() }),
        false => Ok(Rows::At(index(op, numbers, &[numbers.len()])?)),
    }
}
