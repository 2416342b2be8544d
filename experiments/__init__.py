"""Tables, data sets, metrics, and the runner that makes numbers of them."""

import camera_occupancy_bench

camera_occupancy_bench.check(__name__, "renderers", "baselines")
