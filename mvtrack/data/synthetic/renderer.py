"""A vectorised ray caster for `Scene`: colour, z-depth, surface ids and exact point tracks.

Geometry uses only element-wise IEEE arithmetic (no matrix product, whose summation order differs between machines),
so what a pixel hits is the same everywhere; sines and tanh move a colour by far less than 1/255.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mvtrack.data.synthetic.scene import BOX, CYLINDER, SPHERE, Scene
from mvtrack.geometry.camera import Camera

SURROUND, GROUND, FIRST_OBJECT = 0, 1, 2
_BOUND = {SPHERE: 1.0, BOX: 3.0, CYLINDER: 2.0}  # squared bounding radius of the unit primitives


@dataclass(frozen=True)
class Render:
    """Ground truth of one scene: V cameras over T frames (or one camera, without the view axis)."""

    video: UInt8[Tensor, "*V T 3 H W"]
    depth: Float[Tensor, "*V T H W"]  # z-depth of the pixel centre, metres
    ids: UInt8[Tensor, "*V T H W"]  # 0 surround, 1 ground, 2.. objects


@dataclass(frozen=True)
class Hits:
    """What rays meet first. Rays are (F, P): P rays in each of F camera frames; t is in units of the direction."""

    t: Float[Tensor, "F P"]
    surface: Int[Tensor, "F P"]


def render(scene: Scene, camera: Camera, samples: int = 2) -> Render:
    """Render every camera (V, T) of the scene with samples x samples rays per pixel.

    Raises ValueError when the cameras' frames are not the scene's.
    """
    views, frames = camera.shape
    if frames != scene.num_frames:
        raise ValueError(f"the scene has {scene.num_frames} frames, the cameras {frames}")
    out = [_render_view(scene, camera[v], samples) for v in range(views)]
    return Render(*(torch.stack([getattr(r, name) for r in out]) for name in ("video", "depth", "ids")))


@dataclass(frozen=True)
class Rays:
    """P rays in each of F frames. Those of an orthographic camera start at places of their own: each is a frame, P 1.

    time: of the scene, in each frame. width: of what a ray covers, metres at unit t, or everywhere if `parallel`.
    """

    origin: Float[Tensor, "F 3"]
    direction: Float[Tensor, "3 F P"]
    time: Int[Tensor, "F"]
    width: Float[Tensor, "F"]
    parallel: bool

    @staticmethod
    def of(camera: Camera, samples: int) -> "Rays":
        """Of a camera (T,), samples x samples a pixel, rows first. Directions have unit z in camera axes, so that t is
        z-depth."""
        x, y, rotation = _image_plane(camera, samples)
        centre, width = camera.c2w[:, :3, 3], 1 / (samples * camera.K[:, 0, 0])
        time, rays = torch.arange(len(centre)), x.shape[-1] * y.shape[-2]
        r = rotation.float()[..., None, None]
        if camera.projection == "perspective":
            direction = [(r[:, i, 0] * x + (r[:, i, 1] * y + r[:, i, 2])).flatten(1) for i in range(3)]
            return Rays(centre, torch.stack(direction), time, width, False)
        origin = [(r[:, i, 0] * x + r[:, i, 1] * y + centre[:, i, None, None]).flatten() for i in range(3)]
        forward = rotation[:, :, 2].float().repeat_interleave(rays, 0).T[..., None]
        return Rays(torch.stack(origin, -1), forward, time.repeat_interleave(rays), width.repeat_interleave(rays), True)

    def footprint(self, t: Float[Tensor, "F P"]) -> Float[Tensor, "F P"]:
        """Metres that a ray covers where it hits."""
        if self.parallel:
            return self.width[:, None].expand_as(t)
        return t * self.direction.square().sum(0).sqrt() * self.width[:, None]


def _render_view(scene: Scene, camera: Camera, samples: int) -> Render:
    height, width = camera.size
    centres, fine = Rays.of(camera, 1), Rays.of(camera, samples)
    hits = cast(scene, centres.origin, centres.direction, centres.time)
    colour = shade(scene, fine, cast(scene, fine.origin, fine.direction, fine.time))
    colour = colour.view(3, -1, height, samples, width, samples).transpose(0, 1).mean((3, 5))
    return Render(
        video=(colour.clamp(0, 1) * 255 + 0.5).to(torch.uint8),
        depth=hits.t.view(-1, height, width),
        ids=hits.surface.view(-1, height, width).to(torch.uint8),
    )


def _image_plane(
    camera: Camera, samples: int
) -> tuple[Float[Tensor, "T 1 X"], Float[Tensor, "T Y 1"], Float[Tensor, "T 3 3"]]:
    """x and y of all samples in camera axes, at z = 1 where K is of a pinhole; and camera-to-world rotations."""
    height, width = camera.size
    K, rotation = camera.K.double(), camera.c2w[:, :3, :3].double()
    x = ((torch.arange(width * samples).double() + 0.5) / samples - K[:, 0, 2, None]) / K[:, 0, 0, None]
    y = ((torch.arange(height * samples).double() + 0.5) / samples - K[:, 1, 2, None]) / K[:, 1, 1, None]
    return x.float()[:, None, :], y.float()[:, :, None], rotation


def cast(scene: Scene, origin: Float[Tensor, "F 3"], direction: Float[Tensor, "3 F P"], time: Int[Tensor, "F"]) -> Hits:
    """First hit of every ray; frame f of the rays sees the scene at time[f]."""
    t, surface = _cast_surround(scene, origin, direction)
    to_ground = -origin[:, None, 1] / direction[1]
    is_ground = (direction[1] > 0) & (to_ground < t)
    t = torch.where(is_ground, to_ground, t)
    surface = torch.where(is_ground, GROUND, surface)
    for o in range(len(scene.kind)):
        local_o, local_d = _to_unit(scene, o, origin, direction, time)
        a, b, c = _dot(local_d, local_d), _dot(local_d, local_o), _dot(local_o, local_o)
        near = b * b - a * (c - _BOUND[int(scene.kind[o])]) > 0
        index = near.flatten().nonzero()[:, 0]
        if len(index) == 0:
            continue
        frame = index // direction.shape[-1]
        d = local_d.flatten(1)[:, index]
        hit = _INTERSECT[int(scene.kind[o])](local_o[:, frame, 0], d)
        closer = hit < t.view(-1)[index]
        index, hit = index[closer], hit[closer]
        t.view(-1)[index] = hit
        surface.view(-1)[index] = FIRST_OBJECT + o
    return Hits(t, surface)


def _cast_surround(scene: Scene, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    o = origin.T[..., None]
    if scene.dome_radius is not None:
        a, b = _dot(direction, direction), _dot(direction, o)
        c = _dot(o, o) - scene.dome_radius**2
        t = (-b + (b * b - a * c).sqrt()) / a
    else:
        half = scene.room_half_size[:, None, None]
        t = ((half * direction.sign() - o) / _nonzero(direction)).amin(0)
    return t, torch.zeros(t.shape, dtype=torch.long)


def _to_unit(
    scene: Scene, o: int, origin: Tensor, direction: Tensor, time: Tensor
) -> tuple[Float[Tensor, "3 F 1"], Float[Tensor, "3 F P"]]:
    """Rays in the object's own axes, scaled so that the object is the unit primitive. t is unchanged."""
    rotation = scene.rotation[time, o] / scene.half_size[o]  # (F, 3, 3), world to object is its transpose
    shift = origin - scene.position[time, o]
    r = rotation[..., None]
    local_o = [
        r[:, 0, i] * shift[:, 0, None] + (r[:, 1, i] * shift[:, 1, None] + r[:, 2, i] * shift[:, 2, None])
        for i in range(3)
    ]
    local_d = [r[:, 0, i] * direction[0] + (r[:, 1, i] * direction[1] + r[:, 2, i] * direction[2]) for i in range(3)]
    return torch.stack(local_o), torch.stack(local_d)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + (a[1] * b[1] + a[2] * b[2])


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-9, torch.full_like(x, 1e-9), x)


def _hit_sphere(o: Float[Tensor, "3 N"], d: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    a, b, c = _dot(d, d), _dot(o, d), _dot(o, o) - 1
    disc = b * b - a * c
    t = (-b - disc.clamp_min(0).sqrt()) / a
    return torch.where((disc > 0) & (t > 0), t, torch.inf)


def _hit_box(o: Float[Tensor, "3 N"], d: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    d = _nonzero(d)
    first, second = (-1 - o) / d, (1 - o) / d
    enter = torch.minimum(first, second).amax(0)
    leave = torch.maximum(first, second).amin(0)
    return torch.where((enter < leave) & (enter > 0), enter, torch.inf)


def _hit_cylinder(o: Float[Tensor, "3 N"], d: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    """Unit cylinder along y with caps: the overlap of an infinite cylinder and a slab."""
    a = d[0] * d[0] + d[2] * d[2]
    b = o[0] * d[0] + o[2] * d[2]
    c = o[0] * o[0] + o[2] * o[2] - 1
    disc = b * b - a * c
    root = disc.clamp_min(0).sqrt()
    a = a.clamp_min(1e-12)
    dy = _nonzero(d[1])
    slab_a, slab_b = (-1 - o[1]) / dy, (1 - o[1]) / dy
    enter = torch.maximum((-b - root) / a, torch.minimum(slab_a, slab_b))
    leave = torch.minimum((-b + root) / a, torch.maximum(slab_a, slab_b))
    return torch.where((disc > 0) & (enter < leave) & (enter > 0), enter, torch.inf)


_INTERSECT = {SPHERE: _hit_sphere, BOX: _hit_box, CYLINDER: _hit_cylinder}


def shade(scene: Scene, rays: Rays, hits: Hits) -> Float[Tensor, "3 F P"]:
    """RGB in [0, 1] of every hit. Waves too fine for what a ray covers fade."""
    colour = torch.empty(3, hits.t.numel())
    flat_d, flat_t, surface = rays.direction.flatten(1), hits.t.flatten(), hits.surface.flatten()
    covered = rays.footprint(hits.t).flatten()
    for s in range(len(scene.kind) + FIRST_OBJECT):
        index = (surface == s).nonzero()[:, 0]
        if len(index) == 0:
            continue
        frame = index // hits.t.shape[1]
        d, t, footprint = flat_d[:, index], flat_t[index], covered[index]
        point, time = rays.origin.T[:, frame] + d * t, rays.time[frame]
        if s == SURROUND:
            lit, local = torch.ones_like(t), point
        elif s == GROUND:
            footprint = footprint / (d[1] / d.square().sum(0).sqrt()).clamp_min(0.02)
            lit, local = _ground_light(scene, point, time), point
        else:
            local, normal = _object_surface(scene, s - FIRST_OBJECT, point, time)
            lit = scene.ambient + (1 - scene.ambient) * 1.3 * _dot(normal, scene.light[:, None]).clamp_min(0)
        colour[:, index] = _texture(scene, s, local, footprint) * lit
    return colour.view(3, *hits.t.shape)


def _object_surface(scene: Scene, o: int, point: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Hit points in the object's axes (metres) and outward normals in the world, both (3, N)."""
    rotation = scene.rotation[time, o]  # (N, 3, 3)
    shift = (point.T - scene.position[time, o])[..., None, :]
    local = (rotation.mT * shift).sum(-1).T
    half = scene.half_size[o][:, None]
    unit = local / half
    if scene.kind[o] == SPHERE:
        normal = unit / half
    elif scene.kind[o] == BOX:
        normal = torch.zeros_like(unit)
        axis = unit.abs().argmax(0, keepdim=True)
        normal.scatter_(0, axis, unit.gather(0, axis).sign())
    else:
        cap = unit[1].abs() >= (unit[0] ** 2 + unit[2] ** 2).sqrt()
        zero = torch.zeros_like(unit[0])
        normal = torch.where(cap, torch.stack([zero, unit[1].sign(), zero]), torch.stack([unit[0], zero, unit[2]]))
    normal = normal / normal.square().sum(0).sqrt().clamp_min(1e-12)
    return local, (rotation * normal.T[:, None, :]).sum(-1).T


def _ground_light(scene: Scene, point: Float[Tensor, "3 N"], time: Tensor) -> Float[Tensor, "N"]:
    """Soft shadows: each object darkens the ground where the ray to the light passes close to it."""
    light = scene.light[:, None]
    lit = torch.ones_like(point[0])
    for o in range(len(scene.kind)):
        to_object = scene.position[time, o].T - point
        along = _dot(to_object, light)
        miss = (_dot(to_object, to_object) - along * along).clamp_min(0).sqrt()
        radius = scene.half_size[o].square().mean().sqrt()
        edge = ((miss / radius - 0.5) / 0.8).clamp(0, 1)
        lit = lit * (1 - 0.55 * (1 - edge * edge * (3 - 2 * edge)))
    return lit


def _texture(scene: Scene, s: int, point: Float[Tensor, "3 N"], footprint: Float[Tensor, "N"]) -> Float[Tensor, "3 N"]:
    tex = scene.textures
    half = tex.phase.shape[1] // 2
    blend = []
    for waves in (range(half), range(half, 2 * half)):
        total = torch.zeros_like(footprint)
        for w in waves:
            f = tex.frequency[s, w]
            fade = torch.exp(-((2.0 * f.norm() * footprint) ** 2))
            phase = f[0] * point[0] + (f[1] * point[1] + f[2] * point[2])
            total += tex.weight[s, w] * fade * torch.sin(2 * torch.pi * phase + tex.phase[s, w])
        blend.append(0.5 + 0.5 * torch.tanh(tex.contrast[s] * total))
    first, second, third = tex.colour[s][..., None]
    base = first + (second - first) * blend[0]
    colour = base + (third - base) * 0.6 * blend[1]
    for layer, frequency in enumerate(() if tex.leaves is None else tex.leaves[s]):
        if frequency > 0:
            colour = _with_leaves(colour, tex.colour[s], layer, frequency, point, footprint, blend)
    return colour


def _with_leaves(
    colour: Float[Tensor, "3 N"], palette: Float[Tensor, "3 3"], layer: int, frequency: Float[Tensor, ""],
    point: Float[Tensor, "3 N"], footprint: Float[Tensor, "N"], warp: list[Float[Tensor, "N"]],
) -> Float[Tensor, "3 N"]:  # fmt: skip
    """Cover half of a surface with cells of one colour each, whose borders the waves bend. Cells that are too fine to
    be drawn fade."""
    bent = point * frequency + torch.stack([warp[0], warp[1], warp[0] - warp[1]])
    x, y, z = bent.floor().long()
    number = (x * 73_856_093) ^ (y * 19_349_663) ^ (z * 83_492_791) ^ (layer * 2_654_435_761)
    number = (number ^ (number >> 13)) * 1_274_126_177
    draws = [((number >> shift) & 0xFF).float() / 255 for shift in (7, 15, 23)]
    flat = palette[0][:, None] + (palette[1] - palette[0])[:, None] * draws[0]
    flat = (flat + (palette[2][:, None] - flat) * draws[1]) * (0.6 + 0.8 * draws[0])
    cover = (draws[2] > 0.5) * torch.exp(-((frequency * footprint) ** 2))
    return colour + (flat - colour) * cover
