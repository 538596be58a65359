import pytest
import torch

from mvtrack.config.views import ViewsConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.views.anchors import plan_batches


def row(*places: float) -> Camera:
    """Cameras side by side that look ahead."""
    c2w = torch.eye(4).repeat(len(places), 1, 1)
    c2w[:, 0, 3] = torch.tensor(places)
    return Camera(c2w, intrinsics_from_fov(60, (8, 8)).expand(len(places), 3, 3), (8, 8))


@pytest.mark.parametrize("views", [ViewsConfig(4, (1, 2, 3)), ViewsConfig(3, (1, 2)), ViewsConfig(5, (1,))])
@pytest.mark.parametrize("num_photos", [1, 2, 7])
@pytest.mark.parametrize("num_targets", [1, 2, 3, 11])
def test_every_target_is_made_once_from_photos_and_anchors(views, num_photos, num_targets):
    photos, targets = row(*range(num_photos)), row(*(0.3 * i for i in range(num_targets)))
    batches = plan_batches(photos, targets, views, 4.0)
    assert sorted(i for batch in batches for i in batch.made[: batch.kept]) == list(range(num_targets))
    anchors = {num_photos + i for i in batches[0].made[: batches[0].kept]}
    assert all(i < num_photos for i in batches[0].given)
    for batch in batches:
        assert len(batch.given) in views.references
        assert len(batch.given) + len(batch.made) == views.count
        assert len(set(batch.given)) == len(batch.given)
        assert set(batch.given) <= set(range(num_photos)) | anchors
        assert batch.given[0] < num_photos
        assert set(batch.made[batch.kept :]) <= set(batch.made[: batch.kept])


def test_anchors_spread_and_neighbours_hold_views():
    batches = plan_batches(row(0.0), row(*range(12)), ViewsConfig(4, (1, 2, 3)), 1.0)
    assert batches[0].made == (0, 6, 11)
    assert batches[0].given == (0,)
    assert [batch.made[: batch.kept] for batch in batches[1:]] == [(1, 2), (3, 4), (5, 7), (8, 9), (10,)]
    assert [batch.given for batch in batches[1:]] == [(0, 1), (0, 7), (0, 7), (0, 7), (0, 7, 12)]


def test_the_nearest_photographs_are_given():
    batches = plan_batches(row(0.0, 5.0, 9.0), row(8.0, 8.5), ViewsConfig(4, (1, 2, 3)), 1.0)
    assert [batch.given for batch in batches] == [(1, 2)]


def test_a_model_that_needs_more_photographs_says_so(unchecked):
    with pytest.raises(ValueError, match="is given 2 views or more, 1 photographs are there: give it 2"):
        plan_batches(row(0.0), row(1.0), ViewsConfig(4, (2, 3)), 1.0)
