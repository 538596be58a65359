import numpy as np
import pytest
import torch

from mvtrack.metrics.structure import ssim


def test_golden_ssim_of_torchmetrics(shared):
    golden = np.load(shared("golden/metrics/image_metrics.npz"))
    pairs = sorted({name.split(".")[0] for name in golden.files if name.endswith(".ssim_torchmetrics")})
    assert len(pairs) >= 4
    for pair in pairs:
        images = [torch.from_numpy(golden[f"{pair}.img{i}_uint8"]).permute(2, 0, 1) for i in (0, 1)]
        images = [image.double() / 127.5 - 1 for image in images]
        assert ssim(*images) == pytest.approx(float(golden[f"{pair}.ssim_torchmetrics"]), rel=1e-6, abs=1e-9), pair
        if f"{pair}.ssim_torchmetrics_sigma1" in golden.files:
            narrow = ssim(*images, sigma_px=1.0, radius_px=4)
            assert narrow == pytest.approx(float(golden[f"{pair}.ssim_torchmetrics_sigma1"]), rel=1e-6, abs=1e-9), pair


def test_equal_images_and_wrong_shapes(generator):
    image = torch.rand(3, 11, 13, generator=generator) * 2 - 1
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-12)
    assert ssim(image, -image) < 0
    with pytest.raises(ValueError, match="more than 5 pixels"):
        ssim(image[:, :5], image[:, :5])
