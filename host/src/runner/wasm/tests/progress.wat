(import "skep:agent/progress@0.1.0" (instance $progress
    (type $preview' (record (field "mime" string) (field "data" (list u8))))
    (export "preview" (type $preview (eq $preview')))
    (type $update' (record (field "stage" string) (field "step" (option u64))
        (field "total" (option u64)) (field "fraction" (option f64))
        (field "eta-ms" (option u64)) (field "note" (option string))
        (field "preview" (option $preview))))
    (export "update" (type $update (eq $update')))
    (export "report" (func (param "update" $update)))))
