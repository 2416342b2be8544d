"""From records to pages, CSV files, figures and pictures."""

import camera_occupancy_bench

camera_occupancy_bench.check(__name__, "renderers", "baselines", "experiments")
