//! Pictures of the screen: taken, with the pointer drawn in, made larger or smaller, and packed as PNG.

use std::path::Path;
use std::time::Duration;

use wharf_domain::Code;
use wharf_wire::host::desktop::{Region, SETTLE_LIMIT_MS, SIDE_MAX, Screenshot, Size};
use x11rb::protocol::xfixes::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{ConnectionExt as _, ImageFormat};

use super::resize::resize;
use super::screen::{Screen, failed};
use crate::fault::{Fault, Result};

/// The server's part of a picture, besides waiting for quiet.
const TAKE: Duration = Duration::from_secs(15);

/// Red, green and blue, a byte each, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
}

/// Takes the picture that is wanted, as PNG.
pub fn take(socket: &Path, wanted: &Screenshot) -> Result<Vec<u8>> {
    let limit = Duration::from_millis(wanted.settle_limit_ms.unwrap_or(SETTLE_LIMIT_MS).into());
    let screen = Screen::connect(socket, TAKE + limit)?;
    let region = within(wanted.region, Size { width: screen.width, height: screen.height })?;
    let size = target(wanted, region)?;
    if let Some(quiet) = wanted.settle_ms {
        screen.settle(Duration::from_millis(quiet.into()), limit)?;
    }
    let mut picture = grab(&screen, region)?;
    if !wanted.no_cursor {
        draw_cursor(&screen, region, &mut picture)?;
    }
    if (picture.width, picture.height) != size {
        picture = resize(&picture, size.0, size.1);
    }
    encode(&picture)
}

/// The part wanted; all of it must be on the screen.
pub fn within(region: Option<Region>, screen: Size) -> Result<Region> {
    let whole = Region { x: 0, y: 0, width: screen.width, height: screen.height };
    let region = region.unwrap_or(whole);
    let fits = u32::from(region.x) + u32::from(region.width) <= u32::from(screen.width)
        && u32::from(region.y) + u32::from(region.height) <= u32::from(screen.height);
    if fits && region.width > 0 && region.height > 0 {
        return Ok(region);
    }
    Err(Fault::invalid("region", format!("the region {region} is not within the screen of {screen}")))
}

/// Width and height of the picture.
pub fn target(wanted: &Screenshot, region: Region) -> Result<(u32, u32)> {
    match (wanted.size, wanted.scale) {
        (Some(size), _) => Ok((size.width.into(), size.height.into())),
        (None, None) => Ok((region.width.into(), region.height.into())),
        (None, Some(scale)) => {
            let side = |n: u16| ((f32::from(n) * scale).round() as u32).max(1);
            let (width, height) = (side(region.width), side(region.height));
            if width > SIDE_MAX.into() || height > SIDE_MAX.into() {
                return Err(Fault::invalid(
                    "scale",
                    format!("a picture of {width}x{height} is over the limit of {SIDE_MAX} a side"),
                ));
            }
            Ok((width, height))
        }
    }
}

fn grab(screen: &Screen, region: Region) -> Result<Picture> {
    let ask = || {
        let image = screen.conn.get_image(
            ImageFormat::Z_PIXMAP,
            screen.root,
            region.x as i16,
            region.y as i16,
            region.width,
            region.height,
            !0,
        )?;
        Ok::<_, x11rb::errors::ReplyError>(image.reply()?.data)
    };
    let data = ask().map_err(|e| failed("taking a picture", &e))?;
    let pixels = usize::from(region.width) * usize::from(region.height);
    if data.len() < pixels * 4 {
        return Err(Fault::new(Code::Internal, "the X server sent half a picture"));
    }
    let mut rgb = Vec::with_capacity(pixels * 3);
    for pixel in data.chunks_exact(4).take(pixels) {
        rgb.extend_from_slice(&[pixel[2], pixel[1], pixel[0]]);
    }
    Ok(Picture { width: region.width.into(), height: region.height.into(), rgb })
}

/// The server keeps the pointer apart from the picture.
fn draw_cursor(screen: &Screen, region: Region, picture: &mut Picture) -> Result<()> {
    screen.has(xfixes::X11_EXTENSION_NAME)?;
    let ask = || {
        screen.conn.xfixes_query_version(5, 0)?.reply()?;
        screen.conn.xfixes_get_cursor_image()?.reply()
    };
    let cursor = ask().map_err(|e| failed("asking for the pointer's picture", &e))?;
    let left = i32::from(cursor.x) - i32::from(cursor.xhot) - i32::from(region.x);
    let top = i32::from(cursor.y) - i32::from(cursor.yhot) - i32::from(region.y);
    blend(picture, &cursor.cursor_image, u32::from(cursor.width), left, top);
    Ok(())
}

/// Lays pixels of premultiplied ARGB over a picture; what is outside falls away.
pub fn blend(picture: &mut Picture, argb: &[u32], width: u32, left: i32, top: i32) {
    if width == 0 {
        return;
    }
    for (at, pixel) in argb.iter().enumerate() {
        let x = left + (at as u32 % width) as i32;
        let y = top + (at as u32 / width) as i32;
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { continue };
        if x >= picture.width || y >= picture.height {
            continue;
        }
        let [alpha, over @ ..] = pixel.to_be_bytes();
        let start = ((y * picture.width + x) * 3) as usize;
        for (under, over) in picture.rgb[start..start + 3].iter_mut().zip(over) {
            let rest = u32::from(*under) * (255 - u32::from(alpha)) / 255;
            *under = (u32::from(over) + rest).min(255) as u8;
        }
    }
}

pub fn encode(picture: &Picture) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(picture.rgb.len() / 8);
    let mut write = || {
        let mut encoder = png::Encoder::new(&mut out, picture.width, picture.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&picture.rgb)?;
        writer.finish()
    };
    write().map_err(|e: png::EncodingError| {
        Fault::new(Code::Internal, format!("the picture could not be packed: {e}"))
    })?;
    Ok(out)
}
