#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn the_head_ends_where_it_ends_and_the_body_stays() {
    let mut buffer =
        BytesMut::from(&b"Status: 403 Forbidden\r\nContent-Type: text/plain\r\n\r\nbody\r\n\r\n"[..]);
    let (status, headers) = head(&mut buffer).unwrap().unwrap();
    assert_eq!(status, 403);
    assert_eq!(headers, [("content-type".to_owned(), "text/plain".to_owned())]);
    assert_eq!(&buffer[..], b"body\r\n\r\n");
    let mut half = BytesMut::from(&b"Content-Type: x\r\n"[..]);
    assert!(head(&mut half).is_none());
    let mut wrong = BytesMut::from(&b"no head\r\n\r\n"[..]);
    assert!(head(&mut wrong).unwrap().is_err());
}
