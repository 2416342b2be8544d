"""Image and view-from-above metrics of the main tables' cells: what rendering supervision does to rendered views."""

from experiments.spec import Column, ViewSpec

TABLE = ViewSpec(
    name="table_2d",
    title="Rendered views: images, depth, and the view from above",
    columns=(
        Column("image_mIoU", "image mIoU"),
        Column("image_IoU", "image IoU"),
        Column("depth_l1", "depth L1", digits=3, higher_is_better=False, unit="m"),
        Column("bev_mIoU", "BEV mIoU"),
        Column("bev_IoU", "BEV IoU"),
    ),
    parts=("table_occ3d", "table_surroundocc", "table_kitti360"),
)
