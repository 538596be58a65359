import pytest

from mvtrack.models.weights.consent import consent_lacking
from mvtrack.models.weights.registry import registry


@pytest.mark.parametrize("model", ["depth-anything/DA3-BASE", "depth-anything/DA3-SMALL"])
def test_free_weights_need_no_licence_consent(model):
    assert consent_lacking(model) is None


@pytest.mark.parametrize(
    "model",
    [
        *(f"depth-anything/DA3-{size}" for size in ("LARGE", "LARGE-1.1", "GIANT", "GIANT-1.1")),
        *(f"depth-anything/DA3NESTED-GIANT-LARGE{version}" for version in ("", "-1.1")),
        "facebook/VGGT-1B",
        "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
    ],
)
def test_non_commercial_weights_need_consent(model):
    [entry] = [entry for entry in registry().values() if entry.source == model]
    why = f"consent: {model} is for non-commercial use ({entry.licence}); pass --non-commercial"
    assert consent_lacking(model) == why


def test_unknown_licence_needs_consent(tmp_path, monkeypatch):
    """Nor is a folder under the name of weights that are."""
    assert consent_lacking("someone/DA3-BASE").startswith("consent: the licence of someone/DA3-BASE is not known")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "depth-anything/DA3-BASE").mkdir(parents=True)
    assert "is not known" in consent_lacking("depth-anything/DA3-BASE")
