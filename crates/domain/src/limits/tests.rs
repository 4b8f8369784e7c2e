#[test]
fn every_limit_stands_in_the_docs_and_the_docs_name_no_other() {
    let code: Vec<&str> = include_str!("../limits.rs")
        .lines()
        .filter_map(|l| l.strip_prefix("pub const ")?.split(':').next())
        .collect();
    let docs: Vec<&str> = include_str!("../../../../docs/limits.md")
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(code, docs, "docs/limits.md and limits.rs differ");
}
