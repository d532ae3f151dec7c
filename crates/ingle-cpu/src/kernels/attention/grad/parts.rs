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

#[cfg(test)]
mod tests {
    use ingle_tensor::PagedAttention;

    use super::*;
    use crate::kernels::attention::tile::tiles;

    const BLOCK_SIZE: usize = 4;

    /// The parts of tokens given as sequences and positions, of sequences whose blocks follow each other.
    fn cut(tokens: &[(i32, i32)], window: Option<usize>, heads: Heads) -> Vec<Part> {
        let (sequences, positions): (Vec<i32>, Vec<i32>) = tokens.iter().copied().unzip();
        let width = 1024;
        let blocks: Vec<i32> = (0..3 * width as i32).collect();
        let slots = blocks.len() * BLOCK_SIZE;
        let table = Table { op: "test", blocks: &blocks, sequences: 3, width, slots, block_size: BLOCK_SIZE };
        let parameters = PagedAttention { block_size: BLOCK_SIZE, scale: 1.0, window, soft_cap: None };
        let tiles = tiles(&table, &parameters, (&sequences, &positions), usize::MAX).unwrap();
        parts(&table, &tiles, heads)
    }

    const ONE: Heads = Heads { cached: 1, group: 1 };

    #[test]
    fn short_sequences_are_a_part_each_good() {
        let tokens: Vec<(i32, i32)> = (0..3).flat_map(|s| (0..12).map(move |p| (s, p))).collect();
        let parts = cut(&tokens, None, Heads { cached: 2, group: 8 });
        assert_eq!(parts.len(), 3);
        for (s, part) in parts.iter().enumerate() {
            assert_eq!((part.tokens.len(), part.span.clone()), (12, 0..12));
            assert_eq!(part.slots, (4096 * s..4096 * s + 12).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_long_sequence_is_shared_out_by_its_work_good() {
        let tokens: Vec<(i32, i32)> = (0..4000).map(|p| (1, p)).collect();
        let parts = cut(&tokens, None, ONE);
        assert_eq!(parts.len(), UNITS);
        let numbers: Vec<usize> = parts.iter().flat_map(|part| part.tokens.iter().map(|token| token.number)).collect();
        assert_eq!(numbers, (0..4000).collect::<Vec<_>>());
        let work = |part: &Part| part.tokens.iter().map(|token| token.position + 1).sum::<usize>();
        let fair = 4000 * 4001 / 2 / UNITS;
        assert!(parts.iter().all(|part| work(part).abs_diff(fair) <= 4000));
        // The heads of the cache are units, too.
        assert_eq!(cut(&tokens, None, Heads { cached: 4, group: 1 }).len(), UNITS / 4);
    }

    #[test]
    fn what_does_not_touch_stays_apart_ugly() {
        // Two places of one sequence in turn, with a token that is there twice.
        let tokens = [(0, 5), (0, 1000), (0, 6), (0, 1001), (0, 1001)];
        let parts = cut(&tokens, Some(3), ONE);
        let numbers = |part: &Part| part.tokens.iter().map(|token| token.number).collect::<Vec<_>>();
        assert_eq!(parts.iter().map(numbers).collect::<Vec<_>>(), [vec![0, 2], vec![1, 3, 4]]);
        assert_eq!(parts.iter().map(|part| part.span.clone()).collect::<Vec<_>>(), [3..7, 998..1002]);
        assert!(cut(&[], None, ONE).is_empty());
    }
}
