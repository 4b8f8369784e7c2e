use super::Tail;

#[test]
fn the_last_line_is_whole_in_whatever_pieces_it_comes() {
    let mut tail = Tail::default();
    for piece in ["Cloning\nat com", "mit 1234", "5678\n", "\n"] {
        tail.take(piece.as_bytes());
    }
    assert_eq!(tail.line(), "at commit 12345678");
    tail.take(&[b'x'; 10_000]);
    tail.take("\nend".as_bytes());
    assert_eq!(tail.line(), "end");
    assert!(tail.0.len() <= Tail::BYTES);
    assert_eq!(Tail::default().line(), "");
}
