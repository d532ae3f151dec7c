// SPDX-License-Identifier: EUPL-1.2
//! Which tokens are computed together, and which positions they attend to.

use std::ops::Range;

use ingle_tensor::{Error, PagedAttention, Result};

use super::CHUNK;

/// Where sequences lie in the cache.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    /// The operation that looks up here.
    pub(super) op: &'static str,
    pub(super) blocks: &'a [i32],
    pub(super) sequences: usize,
    /// Blocks of one sequence.
    pub(super) width: usize,
    /// Slots of the cache.
    pub(super) slots: usize,
    /// Slots of a block.
    pub(super) block_size: usize,
}

/// Tokens of one sequence at consecutive positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) sequence: usize,
    /// The first token, and how many.
    pub(super) token: usize,
    pub(super) tokens: usize,
    /// The first token's position.
    pub(super) position: usize,
    pub(super) window: usize,
}

impl Tile {
    /// The positions that the tile's `i`-th token attends to.
    pub(super) fn attended(&self, i: usize) -> Range<usize> {
        let end = self.position + i + 1;
        end.saturating_sub(self.window)..end
    }

    /// The positions that any of its tokens attends to.
    pub(super) fn all(&self) -> Range<usize> {
        self.attended(0).start..self.attended(self.tokens - 1).end
    }

    /// The numbers of the chunks they lie in.
    pub(super) fn chunks(&self) -> Range<usize> {
        let all = self.all();
        all.start / CHUNK..all.end.div_ceil(CHUNK)
    }
}

/// The part of `positions` that lies in chunk `chunk`, counted from its start; inside the chunk even where it is
/// empty.
pub(super) fn within(positions: Range<usize>, chunk: usize) -> Range<usize> {
    let inside = |position: usize| position.clamp(chunk * CHUNK, (chunk + 1) * CHUNK) - chunk * CHUNK;
    inside(positions.start)..inside(positions.end)
}

impl Table<'_> {
    /// The first element of the slot of each position in `span`, counted from the start of `chunk`, where a slot
    /// has `row` elements. Elsewhere that of a slot the cache has as well.
    pub(super) fn slots(&self, sequence: usize, chunk: usize, span: Range<usize>, row: usize) -> [usize; CHUNK] {
        let blocks = &self.blocks[sequence * self.width..][..self.width];
        let mut slots = [0; CHUNK];
        let mut i = span.start;
        while i < span.end {
            let position = chunk * CHUNK + i;
            let (block, within) = (position / self.block_size, position % self.block_size);
            let first = blocks[block] as usize * self.block_size + within;
            let count = (self.block_size - within).min(span.end - i);
            for (slot, to) in (first..).zip(&mut slots[i..i + count]) {
                *to = slot * row;
            }
            i += count;
        }
        slots
    }
}

/// Groups the tokens into tiles of at most `most`, and checks every index that will be followed.
pub(super) fn tiles(
    table: &Table<'_>,
    parameters: &PagedAttention,
    (sequences, positions): (&[i32], &[i32]),
    most: usize,
) -> Result<Vec<Tile>> {
    let block_size = parameters.block_size;
    let index = |value: i32, len: usize| match usize::try_from(value) {
        Ok(found) if found < len => Ok(found),
        _ => Err(Error::Index { op: table.op, index: value.into(), len }),
    };
    let capacity = table.width.saturating_mul(block_size);
    let mut tiles: Vec<Tile> = Vec::new();
    for (token, (&sequence, &position)) in sequences.iter().zip(positions).enumerate() {
        let sequence = index(sequence, table.sequences)?;
        let position = index(position, capacity)?;
        match tiles.last_mut() {
            Some(tile)
                if tile.sequence == sequence && tile.tokens < most && tile.position + tile.tokens == position =>
            {
                tile.tokens += 1;
            }
            _ => {
                let window = parameters.window.unwrap_or(usize::MAX);
                tiles.push(Tile { sequence, token, tokens: 1, position, window });
            }
        }
    }
    for tile in &tiles {
        let all = tile.all();
        let blocks = &table.blocks[tile.sequence * table.width..][..table.width];
        for &block in &blocks[all.start / block_size..all.end.div_ceil(block_size)] {
            index(block, table.slots / block_size)?;
        }
    }
    Ok(tiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(position: usize, tokens: usize, window: usize) -> Tile {
        Tile { sequence: 0, token: 0, tokens, position, window }
    }

    #[test]
    fn a_tile_spans_what_its_tokens_attend_to_good() {
        let tile = tile(300, 4, 10);
        assert_eq!((tile.attended(0), tile.attended(3)), (291..301, 294..304));
        assert_eq!((tile.all(), tile.chunks()), (291..304, 1..2));
        assert_eq!(within(tile.all(), 1), 291 - CHUNK..304 - CHUNK);
    }

    #[test]
    fn chunks_cut_at_absolute_positions_ugly() {
        let tile = tile(CHUNK - 2, 4, usize::MAX);
        assert_eq!(tile.chunks(), 0..2);
        assert_eq!(within(tile.attended(3), 1), 0..2);
        // A token before the chunk, and one whose window has left it.
        assert_eq!(within(0..CHUNK, 1), 0..0);
        assert_eq!(within(3 * CHUNK..3 * CHUNK + 1, 1), CHUNK..CHUNK);
    }

    #[test]
    fn positions_are_looked_up_in_the_table_good() {
        let blocks = [9, 9, 3, 1];
        let table =
            Table { op: "test", blocks: &blocks, sequences: 2, width: 2, slots: 16 * CHUNK, block_size: CHUNK - 1 };
        let slots = table.slots(1, 0, CHUNK - 3..CHUNK, 10);
        let last = 3 * (CHUNK - 1) + CHUNK - 2;
        assert_eq!(slots[CHUNK - 4..], [0, 10 * (last - 1), 10 * last, 10 * (CHUNK - 1)]);
    }

    #[test]
    fn tokens_join_a_tile_only_side_by_side_ugly() -> Result<()> {
        let blocks = [0; 8];
        let table = Table { op: "test", blocks: &blocks, sequences: 2, width: 4, slots: 16, block_size: 16 };
        let parameters = PagedAttention { block_size: 16, scale: 1.0, window: None, soft_cap: None };
        let cut = |sequences: &[i32], positions: &[i32], most: usize| {
            let tiles = tiles(&table, &parameters, (sequences, positions), most)?;
            Ok::<Vec<usize>, Error>(tiles.iter().map(|tile| tile.tokens).collect())
        };
        assert_eq!(cut(&[0, 0, 0, 1, 1], &[4, 5, 6, 7, 8], 8)?, [3, 2]);
        assert_eq!(cut(&[0, 0, 0], &[4, 5, 6], 2)?, [2, 1]);
        assert_eq!(cut(&[0, 0, 0], &[6, 5, 5], 8)?, [1, 1, 1]);
        assert_eq!(cut(&[], &[], 8)?, [0; 0]);
        Ok(())
    }

    #[test]
    fn indices_are_checked_where_they_are_followed_bad() {
        let blocks = [0, 1, -1, 7];
        let table = Table { op: "test", blocks: &blocks, sequences: 1, width: 4, slots: 32, block_size: 16 };
        let parameters = PagedAttention { block_size: 16, scale: 1.0, window: Some(16), soft_cap: None };
        let refused = |sequence: i32, position: i32| {
            tiles(&table, &parameters, (&[sequence], &[position]), 8).err().map(|error| error.to_string())
        };
        let outside = |index: i64, len: usize| Some(Error::Index { op: "test", index, len }.to_string());
        assert_eq!(refused(0, 31), None, "its block and the one before are there");
        assert_eq!(refused(0, 32), outside(-1, 2));
        assert_eq!(refused(0, 63), outside(7, 2), "the window has left the block that is not there");
        assert_eq!(refused(0, 64), outside(64, 64));
        assert_eq!(refused(0, -1), outside(-1, 64));
        assert_eq!(refused(1, 0), outside(1, 1));
        assert_eq!(refused(i32::MIN, 0), outside(i32::MIN.into(), 1));
    }
}
