//! The rows of the table of cases.

use std::collections::BTreeSet;

use skep_tests::hostile::{Yard, cases};

use super::Scene;

/// A test for each row, which tries its cases one after the other, and one
/// that no row is left out.
macro_rules! rows {
    ($($row:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $row() {
                among_neighbours(stringify!($row)).await;
            }
        )*

        #[test]
        fn no_row_is_left_out() {
            let tried = BTreeSet::from([$(stringify!($row)),*]);
            let all: BTreeSet<_> = cases(&Yard::new()).iter().map(|case| case.row).collect();
            assert_eq!(tried, all);
        }
    };
}

rows! {
    nonsense foreign large compiling starts absurd_limits
    loops recursion memory fresh_memory copies traps exits
    waits handles randomness strings
    output paths disk pauses
    native_bombs native_clingers native_ends native_sleepers
}

async fn among_neighbours(row: &str) {
    let scene = Scene::set().await;
    let client = scene.client().await;
    for case in cases(scene.yard()).iter().filter(|case| case.row == row) {
        case.try_on(&client).await;
    }
    scene.end().await;
}
