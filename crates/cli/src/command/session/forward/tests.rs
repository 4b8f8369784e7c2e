use super::pair;

#[test]
fn ports_are_one_or_two() {
    assert_eq!(pair("8000"), Ok((8000, 8000)));
    assert_eq!(pair("5433:5432"), Ok((5433, 5432)));
    assert_eq!(pair("0:80"), Ok((0, 80)));
    for wrong in ["", "0", "80:0", "x", "1:2:3", "65536", "-1"] {
        assert!(pair(wrong).is_err(), "{wrong}");
    }
}
