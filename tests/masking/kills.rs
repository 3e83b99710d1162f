//! A masked import that ends at each of its steps, as `kill -9` would end it: no base is there afterwards, nothing can be reached, and the next import
//! finds its way.

use crate::fixture::*;
use offshoot::model::fault::FaultPoint;

fn ends_at(point: FaultPoint) {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.node.set_environment("OFFSHOOT_FAULT", point.name());
    let error = masked.node.fail(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
    assert!(error.contains(&format!("OFFSHOOT_FAULT: ending at {}", point.name())), "{error}");
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    assert!(masked.node.bases().is_empty(), "a base is listed after {}", point.name());

    masked.node.start();
    let refused = try_psql(&masked.url("shop@x"), "select 1").expect_err("there is nothing to branch from");
    assert!(refused.contains("base"), "{refused}");

    // Beside a running server, as people do it.
    masked.import();
    assert_eq!(masked.node.bases().len(), 1);
    let raw = masked.source.psql("shop", "select email from customers order by id limit 1");
    let found = masked.psql("shop@x", &format!("select count(*) from customers where email = '{raw}'"));
    assert_eq!(found, "0");
    let count = "select count(*) from customers";
    assert_eq!(masked.psql("shop@x", count), masked.source.psql("shop", count));
    let left = masked.node.data_dir().join("import").read_dir().expect("imports have a folder").count();
    assert_eq!(left, 0, "the killed import's folder is still there");
}

macro_rules! each_step {
    ($($test:ident: $point:ident,)*) => {
        $(
            #[test]
            fn $test() {
                ends_at(FaultPoint::$point);
            }
        )*
    };
}

each_step! {
    the_schema_is_restored: SchemaRestored,
    a_table_is_copied: TableCopied,
    rows_are_copied: RowsCopied,
    the_cluster_is_copied: ClusterCopied,
    the_cluster_is_searched: ClusterSearched,
    the_base_is_staged: BaseStaged,
    the_report_is_put: ReportPut,
    the_manifest_is_put: BaseManifestPut,
}
