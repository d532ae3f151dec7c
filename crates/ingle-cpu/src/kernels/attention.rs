// SPDX-License-Identifier: EUPL-1.2
//! Attention over a paged cache, read where it lies.
//!
//! A token's positions are cut into chunks of [`CHUNK`] at absolute multiples of it. Within a chunk the weights
//! are taken against the chunk's own largest score; chunks are then merged in order, each rescaled to the
//! largest score so far (Milakov & Gimelshein 2018). So a token's result depends on its own position and window
//! alone: not on the tokens computed beside it, on how a prompt was cut, or on which thread took which chunk.
//!
//! The tokens of a tile stand next to each other in one sequence and share the loads of keys and values.

mod chunk;
mod rows;

use half::{bf16, f16};
use ingle_tensor::{DType, Error, PagedAttention, Result, Spec};

use self::chunk::Side;
use super::matmul::Operand;
use super::rows::packed;
use super::{Context, Pieces, Pointer, contiguous, contiguous_f32, elements_mut, in_dtype};
use crate::memory::Contents;
use crate::storage::CpuStorage;

const OP: &str = "paged_attention";

/// Positions in a chunk.
const CHUNK: usize = 256;

/// The most rows (tokens times the heads that share a key) in a tile, if a token has not more alone.
const MOST_ROWS: usize = 192;

/// From this number of rows on, a tile's keys and values are widened into one place first: read in turn by
/// every row, they would otherwise be fetched from far apart each time.
const GATHERED_ROWS: usize = 12;

/// What one position costs a row, beside its width, in simple steps.
const COST: usize = 8;

/// [`ingle_tensor::Op::PagedAttention`].
pub(crate) fn paged_attention(
    cx: &Context,
    inputs: [CpuStorage; 6],
    parameters: &PagedAttention,
    output: &Spec,
) -> Result<CpuStorage> {
    let [q, keys, values, blocks, sequences, positions] = inputs;
    let q = contiguous_f32(cx, q)?;
    let (keys, values) = (contiguous(cx, keys)?, contiguous(cx, values)?);
    let blocks = contiguous(cx, blocks)?;
    let (sequences, positions) = (contiguous(cx, sequences)?, contiguous(cx, positions)?);
    let table = Table {
        blocks: packed(&blocks),
        sequences: blocks.layout().shape()[0],
        width: blocks.layout().shape()[1],
        slots: keys.layout().shape()[0],
    };
    let heads = output.shape[1];
    let kv_heads = keys.layout().shape()[1];
    // Large tiles share more, as long as every thread gets some.
    let shared = MOST_ROWS / (heads / kv_heads).max(1);
    let spread = (output.shape[0] * kv_heads).div_ceil(4 * cx.pool.threads());
    let most = shared.min(spread).max(1);
    let tiles = tiles(&table, parameters, (packed(&sequences), packed(&positions)), most)?;
    match keys.dtype() {
        DType::F32 => Attention::<f32>::new(&q, [&keys, &values], table, parameters, tiles).run(cx, output),
        DType::F16 => Attention::<f16>::new(&q, [&keys, &values], table, parameters, tiles).run(cx, output),
        _ => Attention::<bf16>::new(&q, [&keys, &values], table, parameters, tiles).run(cx, output),
    }
}

/// Where sequences lie in the cache.
#[derive(Clone, Copy)]
struct Table<'a> {
    blocks: &'a [i32],
    sequences: usize,
    /// Blocks of one sequence.
    width: usize,
    /// Slots of the cache.
    slots: usize,
}

/// Tokens of one sequence at consecutive positions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tile {
    sequence: usize,
    /// The first token, and how many.
    token: usize,
    tokens: usize,
    /// The first token's position.
    position: usize,
    window: usize,
}

impl Tile {
    /// The positions that the tile's `i`-th token attends to.
    fn attended(&self, i: usize) -> std::ops::Range<usize> {
        let end = self.position + i + 1;
        end.saturating_sub(self.window)..end
    }

    /// The positions that any of its tokens attends to.
    fn all(&self) -> std::ops::Range<usize> {
        self.attended(0).start..self.attended(self.tokens - 1).end
    }

    /// The numbers of the chunks they lie in.
    fn chunks(&self) -> std::ops::Range<usize> {
        let all = self.all();
        all.start / CHUNK..all.end.div_ceil(CHUNK)
    }
}

/// The part of `positions` that lies in chunk `chunk`; inside the chunk even where it is empty.
fn within(positions: std::ops::Range<usize>, chunk: usize) -> std::ops::Range<usize> {
    let (start, end) = (chunk * CHUNK, (chunk + 1) * CHUNK);
    positions.start.clamp(start, end)..positions.end.clamp(start, end)
}

/// Groups the tokens into tiles of at most `most`, and checks every index that will be followed.
fn tiles(
    table: &Table<'_>,
    parameters: &PagedAttention,
    (sequences, positions): (&[i32], &[i32]),
    most: usize,
) -> Result<Vec<Tile>> {
    let block_size = parameters.block_size;
    let index = |value: i32, len: usize| match usize::try_from(value) {
        Ok(found) if found < len => Ok(found),
        _ => Err(Error::Index { op: OP, index: value.into(), len }),
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

/// The whole operation, its indices checked.
struct Attention<'a, C> {
    parameters: PagedAttention,
    table: Table<'a>,
    tiles: Vec<Tile>,
    q: &'a [f32],
    keys: &'a [C],
    values: &'a [C],
    heads: usize,
    kv_heads: usize,
    width: usize,
}

/// Of each row of a tile: the largest score, the sum of the weights, and the weighted sum of the values.
#[derive(Clone, Debug, Default)]
struct Partial {
    max: Vec<f32>,
    sum: Vec<f32>,
    values: Vec<f32>,
}

impl Partial {
    fn new(rows: usize, width: usize) -> Self {
        Partial { max: vec![f32::NEG_INFINITY; rows], sum: vec![0.0; rows], values: vec![0.0; rows * width] }
    }
}

impl<'a, C: Operand> Attention<'a, C> {
    fn new(
        q: &'a CpuStorage,
        [keys, values]: [&'a CpuStorage; 2],
        table: Table<'a>,
        parameters: &PagedAttention,
        tiles: Vec<Tile>,
    ) -> Self {
        let [heads, width] = [q.layout().shape()[1], q.layout().shape()[2]];
        let kv_heads = keys.layout().shape()[1];
        let (q, keys, values) = (packed(q), packed(keys), packed(values));
        Attention { parameters: *parameters, table, tiles, q, keys, values, heads, kv_heads, width }
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn run(&self, cx: &Context, output: &Spec) -> Result<CpuStorage> {
        in_dtype(cx, OP, output, |out| {
            let units = self.tiles.len() * self.kv_heads;
            let chunks: usize = self.tiles.iter().map(|tile| tile.chunks().len()).sum();
            if units >= 2 * cx.pool.threads() || chunks == self.tiles.len() {
                self.by_tile(cx, out)
            } else {
                self.by_chunk(cx, out)
            }
        })
    }

    /// One thread for all chunks of a tile and key head.
    fn by_tile(&self, cx: &Context, out: &mut [f32]) -> Result<()> {
        let out = Pointer(out.as_mut_ptr());
        let positions: usize = self.tiles.iter().map(|tile| tile.tokens * tile.all().len()).sum();
        let cost = positions * self.heads * (self.width + COST);
        cx.parallel(OP, (self.tiles.len() * self.kv_heads, cost), |unit| {
            let tile = &self.tiles[unit / self.kv_heads];
            let side = Side { attention: self, tile, kv_head: unit % self.kv_heads };
            let mut total = Partial::new(side.rows(), self.width);
            let mut partial = total.clone();
            // Past the memory limit keys and values are read where they lie.
            let mut room = if side.rows() < GATHERED_ROWS {
                None
            } else {
                cx.buffer::<f32>(2 * CHUNK * self.width, Contents::Anything).ok()
            };
            for chunk in tile.chunks() {
                side.chunk(cx, chunk, &mut partial, room.as_mut().map(elements_mut));
                side.merge(cx, chunk, &partial, &mut total);
            }
            side.finish(cx, &total, out);
        })
    }

    /// Chunks on several threads, merged afterwards: for few tokens with long contexts.
    fn by_chunk(&self, cx: &Context, out: &mut [f32]) -> Result<()> {
        let sides = || {
            self.tiles
                .iter()
                .flat_map(|tile| (0..self.kv_heads).map(move |kv_head| Side { attention: self, tile, kv_head }))
        };
        let units: Vec<_> = sides().flat_map(|side| side.tile.chunks().map(move |chunk| (side, chunk))).collect();
        let mut partials = vec![Partial::default(); units.len()];
        cx.pieces(OP, &mut partials, Pieces { size: 1, cost: CHUNK * self.width }, |unit, partial| {
            let (side, chunk) = units[unit];
            partial[0] = Partial::new(side.rows(), self.width);
            side.chunk(cx, chunk, &mut partial[0], None);
        })?;
        let out = Pointer(out.as_mut_ptr());
        let mut partials = partials.iter();
        for side in sides() {
            let mut total = Partial::new(side.rows(), self.width);
            for (chunk, partial) in side.tile.chunks().zip(&mut partials) {
                side.merge(cx, chunk, partial, &mut total);
            }
            side.finish(cx, &total, out);
        }
        Ok(())
    }
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
        assert_eq!(within(tile.all(), 1), 291..304);
    }

    #[test]
    fn chunks_cut_at_absolute_positions_ugly() {
        let tile = tile(CHUNK - 2, 4, usize::MAX);
        assert_eq!(tile.chunks(), 0..2);
        assert_eq!(within(tile.attended(3), 1), CHUNK..CHUNK + 2);
        // A token before the chunk, and one whose window has left it.
        assert_eq!(within(0..CHUNK, 1), CHUNK..CHUNK);
        assert_eq!(within(3 * CHUNK..3 * CHUNK + 1, 1), 2 * CHUNK..2 * CHUNK);
    }

    #[test]
    fn tokens_join_a_tile_only_side_by_side_ugly() -> Result<()> {
        let blocks = [0; 8];
        let table = Table { blocks: &blocks, sequences: 2, width: 4, slots: 16 };
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
        let table = Table { blocks: &blocks, sequences: 1, width: 4, slots: 32 };
        let parameters = PagedAttention { block_size: 16, scale: 1.0, window: Some(16), soft_cap: None };
        let refused = |sequence: i32, position: i32| {
            tiles(&table, &parameters, (&[sequence], &[position]), 8).err().map(|error| error.to_string())
        };
        let outside = |index: i64, len: usize| Some(Error::Index { op: OP, index, len }.to_string());
        assert_eq!(refused(0, 31), None, "its block and the one before are there");
        assert_eq!(refused(0, 32), outside(-1, 2));
        assert_eq!(refused(0, 63), outside(7, 2), "the window has left the block that is not there");
        assert_eq!(refused(0, 64), outside(64, 64));
        assert_eq!(refused(0, -1), outside(-1, 64));
        assert_eq!(refused(1, 0), outside(1, 1));
        assert_eq!(refused(i32::MIN, 0), outside(i32::MIN.into(), 1));
    }
}
