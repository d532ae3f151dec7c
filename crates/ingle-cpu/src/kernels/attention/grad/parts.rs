// SPDX-License-Identifier: EUPL-1.2
//! Which tokens' gradients are computed together.

use std::ops::Range;

use crate::kernels::attention::tile::{Table, Tile};

/// Units that the work is cut into at least, if it can be: enough for the threads of any machine that this is for. Not
/// the number of threads, on which no sum may depend.
const UNITS: usize = 16;

/// The fewest rows that are worth keys and values of their own.
const LEAST_ROWS: usize = 128;

/// A token and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) number: usize,
    pub(super) position: usize,
}

/// Tokens of one sequence, all heads of which share what they attend to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) tokens: Vec<Token>,
    /// The positions from the first to the last that any of them attends to.
    pub(super) span: Range<usize>,
    /// The slot of each.
    pub(super) slots: Vec<usize>,
}

/// How many heads a token has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Of the cache.
    pub(super) cached: usize,
    /// Of the queries to each of these.
    pub(super) group: usize,
}

/// Cuts the tokens of tiles into parts. Tiles of one sequence belong together if the positions that they attend to
/// touch; the work of many tokens is shared out.
pub(super) fn parts(table: &Table<'_>, tiles: &[Tile], heads: Heads) -> Vec<Part> {
    let mut groups: Vec<Group> = vec![];
    let mut of_sequence = vec![vec![]; table.sequences];
    for tile in tiles {
        let all = tile.all();
        let touches = |&&group: &&usize| {
            let span: &Range<usize> = &groups[group].span;
            all.start <= span.end && span.start <= all.end
        };
        let own: &mut Vec<usize> = &mut of_sequence[tile.sequence];
        let group = own.iter().find(touches).copied().unwrap_or_else(|| {
            own.push(groups.len());
            groups.push(Group { sequence: tile.sequence, window: tile.window, span: all.clone(), tokens: vec![] });
            groups.len() - 1
        });
        let group = &mut groups[group];
        group.span = group.span.start.min(all.start)..group.span.end.max(all.end);
        let token = |i| Token { number: tile.token + i, position: tile.position + i };
        group.tokens.extend((0..tile.tokens).map(token));
    }
    let total = groups.iter().map(Group::work).fold(0, usize::saturating_add);
    groups.iter().flat_map(|group| group.cut(table, heads, total)).collect()
}

struct Group {
    sequence: usize,
    window: usize,
    span: Range<usize>,
    tokens: Vec<Token>,
}

impl Group {
    /// What a token attends to.
    fn attended(&self, token: &Token) -> Range<usize> {
        let end = token.position + 1;
        end.saturating_sub(self.window)..end
    }

    fn work(&self) -> usize {
        self.tokens.iter().map(|token| self.attended(token).len()).fold(0, usize::saturating_add)
    }

    /// Cuts the group where its share of the `total` work is reached.
    fn cut(&self, table: &Table<'_>, heads: Heads, total: usize) -> Vec<Part> {
        let work = self.work();
        let share = work.saturating_mul(UNITS).div_ceil(total.saturating_mul(heads.cached).max(1));
        let most = self.tokens.len().saturating_mul(heads.group) / LEAST_ROWS;
        let count = share.min(most).max(1);
        let mut done = 0;
        let numbered = self.tokens.iter().map(|token| {
            let number = done / work.div_ceil(count).max(1);
            done += self.attended(token).len();
            (number, *token)
        });
        let numbered: Vec<(usize, Token)> = numbered.collect();
        numbered.chunk_by(|a, b| a.0 == b.0).map(|tokens| self.part(table, tokens)).collect()
    }

    fn part(&self, table: &Table<'_>, tokens: &[(usize, Token)]) -> Part {
        let tokens: Vec<Token> = tokens.iter().map(|(_, token)| *token).collect();
        let attended = tokens.iter().map(|token| self.attended(token));
        let span = attended.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0);
        let blocks = &table.blocks[self.sequence * table.width..][..table.width];
        let size = table.block_size;
        let slots = span.clone().map(|position| blocks[position / size] as usize * size + position % size);
        Part { tokens, slots: slots.collect(), span }
    }
}
