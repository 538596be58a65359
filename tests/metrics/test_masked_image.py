import pytest
import torch

from mvtrack.metrics.masked_image import masked_psnr, masked_ssim

MASKS = ["ones", "random70", "half", "block", "tiny"]


@pytest.mark.parametrize("mask_name", MASKS)
def test_golden_dycheck(golden_numbers, mask_name):
    golden = golden_numbers("dycheck_image")
    cases = sorted({name.split(".")[0] for name in golden})
    assert len(cases) >= 2
    for case in cases:
        a, b = (torch.from_numpy(golden[f"{case}.img{i}"]).permute(2, 0, 1).double() * 2 - 1 for i in (0, 1))
        mask = torch.from_numpy(golden[f"{case}.{mask_name}.mask"])[..., 0] > 0
        for score, name in ((masked_psnr, "psnr"), (masked_ssim, "ssim")):
            assert float(score(a, b, mask)) == pytest.approx(
                float(golden[f"{case}.{mask_name}.{name}.float64"]), rel=1e-6
            )
            expected, tolerance = (
                float(golden[f"{case}.{mask_name}.{name}.float32"]),
                {"psnr": 1e-3, "ssim": 2e-5}[name],
            )
            assert float(score(a.float(), b.float(), mask)) == pytest.approx(expected, abs=tolerance)


def test_what_lies_outside_the_mask_does_not_matter(generator):
    a, b = torch.rand(2, 3, 17, 23, generator=generator)
    mask = torch.zeros(17, 23, dtype=torch.bool)
    mask[3:15, 5:19] = True
    changed = torch.where(mask, b, -b)
    for score in (masked_psnr, masked_ssim):
        torch.testing.assert_close(score(a, b, mask), score(a, changed, mask))
        assert float(score(a, b, mask)) < float(score(a, a, mask))


def test_by_hand():
    a = torch.full((3, 13, 17), -0.2)
    mask = torch.ones(13, 17, dtype=torch.bool)
    assert float(masked_psnr(a, a + 0.2, mask)) == pytest.approx(20.0, abs=1e-4)
    c1 = 0.01**2
    assert float(masked_ssim(a, a + 0.2, mask)) == pytest.approx((2 * 0.4 * 0.5 + c1) / (0.16 + 0.25 + c1), abs=1e-4)


def test_bad_input(unchecked):
    a = torch.zeros(3, 13, 17)
    for score in (masked_psnr, masked_ssim):
        with pytest.raises(ValueError, match="the mask selects no pixel"):
            score(a, a, torch.zeros(13, 17, dtype=torch.bool))
        with pytest.raises(ValueError, match="must have one size"):
            score(a, a, torch.ones(17, 13, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 11x11"):
        masked_ssim(a[:, :7], a[:, :7], torch.ones(7, 17, dtype=torch.bool))
