from mvtrack import train


def test_overrides_may_stand_on_either_side_of_options(monkeypatch):
    seen = []
    monkeypatch.setattr(train, "_train", seen.append)
    assert train.main(["--config", "a.yaml", "train.steps=3", "--resume", "auto", "optim.lr=1e-3"]) == 0
    assert seen[0].overrides == ["train.steps=3", "optim.lr=1e-3"]
    assert seen[0].resume == "auto"
