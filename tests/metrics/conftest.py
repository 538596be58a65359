import numpy as np
import pytest


@pytest.fixture(
    params=[
        "random",
        "constant_shift",
        *[
            pytest.param(name, marks=pytest.mark.shared)
            for name in ("real_frames", "real_noise", "real_jpeg", "identical")
        ],
    ]
)
def image_pair(request, golden_numbers, shared_numbers) -> dict[str, np.ndarray]:
    """A pair of pictures, (H, W, 3) of 0..255, and the scores that scikit-image and torchmetrics gave for it."""
    pair = request.param
    made_up = pair in ("random", "constant_shift")
    numbers = golden_numbers("image_metrics") if made_up else shared_numbers("golden/metrics/image_metrics.npz")
    return {name.removeprefix(f"{pair}."): numbers[name] for name in numbers if name.startswith(f"{pair}.")}
