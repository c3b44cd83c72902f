//! What is the same error, and what is another.

use log_errors::fold;

#[test]
fn what_differs_from_case_to_case_is_folded() {
    for (message, folded) in [
        (
            "order 10115 failed after 3 ms",
            "order <n> failed after <n> ms",
        ),
        ("no stock level for sku-142", "no stock level for sku-<n>"),
        ("took 1.25 s", "took <n>.<n> s"),
        ("at 0x7ffee4c0a8b0", "at <hex>"),
        ("commit 4f2a91bc77 is gone", "commit <hex> is gone"),
        (
            "cannot reach 10.0.0.7:8080: refused",
            "cannot reach <addr>: refused",
        ),
        ("cannot reach 10.0.0.7.", "cannot reach <addr>."),
        ("cannot reach fe80::1 now", "cannot reach <addr> now"),
        ("open() \"/srv/a/1.png\" failed", "open() \"<path>\" failed"),
        ("'/srv/a' is no file", "'<path>' is no file"),
        ("worker12 and job_7_a", "worker<n> and job_<n>_a"),
        ("base 10: 'two'", "base <n>: '<text>'"),
        ("base 10: '4,2'", "base <n>: '<text>'"),
    ] {
        assert_eq!(fold(message), folded);
    }
}

#[test]
fn what_an_error_is_about_is_kept() {
    for message in [
        "KeyError: 'sku'",
        "AttributeError: 'NoneType' object has no attribute 'price'",
        "sqlite3.OperationalError: database is locked",
        "ValueError: it's what bees don't like",
        "decade of beef",
        "std::io failed at once",
        "unclosed \"quote/of a path",
        "",
        "é: ‘ü’",
    ] {
        assert_eq!(fold(message), message);
    }
}

#[test]
fn folding_again_changes_nothing() {
    let folded = fold("10.0.0.7:80 at 0xfe, '/a/b' of 12: no 'x/y'");
    assert_eq!(fold(&folded), folded);
}
