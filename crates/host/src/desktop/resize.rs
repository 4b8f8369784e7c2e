//! Pictures made larger or smaller: each pixel is the weighted mean of those it covers (a triangle filter, one direction after
//! the other), so that small letters stay legible when the screen is shrunk to a model's grid.

use super::capture::Picture;

/// Weights sum to this; fixed point, for speed.
const ONE: u32 = 1 << 14;

/// For one pixel of the new side: where it begins in the old one, and what of each old pixel it takes.
struct Share {
    from: usize,
    weights: Vec<u32>,
}

fn shares(old: u32, new: u32) -> Vec<Share> {
    let ratio = f64::from(old) / f64::from(new);
    let reach = ratio.max(1.0);
    (0..new)
        .map(|at| {
            let middle = (f64::from(at) + 0.5) * ratio;
            let first = ((middle - reach).floor().max(0.0)) as u32;
            let last = ((middle + reach).ceil() as u32).min(old);
            let raw: Vec<f64> = (first..last)
                .map(|n| (1.0 - ((f64::from(n) + 0.5 - middle) / reach).abs()).max(0.0))
                .collect();
            let sum: f64 = raw.iter().sum();
            let mut weights: Vec<u32> =
                raw.iter().map(|w| (w / sum * f64::from(ONE)).round() as u32).collect();
            // Rounding must not make a white page grey.
            let total: u32 = weights.iter().sum();
            if let Some(most) = weights.iter_mut().max() {
                *most = (*most + ONE).saturating_sub(total);
            }
            Share { from: first as usize, weights }
        })
        .collect()
}

/// The picture in another size.
pub fn resize(from: &Picture, width: u32, height: u32) -> Picture {
    let (old, new) = (from.width as usize, width as usize);
    let across = shares(from.width, width);
    let mut narrow = Vec::with_capacity(new * from.height as usize * 3);
    for row in from.rgb.chunks_exact(old * 3) {
        for share in &across {
            let mut sums = [ONE / 2; 3];
            for (pixel, weight) in row[share.from * 3..].chunks_exact(3).zip(&share.weights) {
                for (sum, part) in sums.iter_mut().zip(pixel) {
                    *sum += u32::from(*part) * weight;
                }
            }
            narrow.extend(sums.map(|sum| (sum / ONE).min(255) as u8));
        }
    }
    let down = shares(from.height, height);
    let stride = new * 3;
    let mut rgb = Vec::with_capacity(stride * height as usize);
    let mut sums = vec![0_u32; stride];
    for share in &down {
        sums.fill(ONE / 2);
        for (row, weight) in narrow[share.from * stride..].chunks_exact(stride).zip(&share.weights) {
            for (sum, part) in sums.iter_mut().zip(row) {
                *sum += u32::from(*part) * weight;
            }
        }
        rgb.extend(sums.iter().map(|sum| (sum / ONE).min(255) as u8));
    }
    Picture { width, height, rgb }
}
