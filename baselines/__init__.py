"""Images and cameras -> semantic voxels. One folder a model, and ``gaussrender`` for anybody's."""

import camera_occupancy_bench

camera_occupancy_bench.check(__name__, "renderers")
