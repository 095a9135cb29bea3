//! The committed API document is the one that the code gives.

use std::process::Command;

use crate::support::executable;

#[test]
fn the_committed_document_is_fresh() {
    let output = Command::new(executable("tunesmith"))
        .arg("openapi")
        .output()
        .unwrap();
    assert!(output.status.success());
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/openapi.json")).unwrap();
    assert!(
        String::from_utf8(output.stdout).unwrap() == committed,
        "openapi/openapi.json is stale; run `make openapi`"
    );
}
