"""What a portrait is painted with: colours and soft shapes, the canvas, the turned head and its skin.

The canvas spans [-1, 1] in x (right) and y (down). The head is a unit sphere, stretched, tapered to the chin
and turned by yaw and pitch; z points at the viewer. Skin features are painted in *face units* (x, y) of the
unturned head seen from the front (half a face width is 1), so turning moves and foreshortens them as a real
surface would.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Window = tuple[slice, slice]
Vector = tuple[Array | float, Array | float, Array | float]

ASPECT = 1.27
"""Height over width of the reference head: y of a face unit = ASPECT times y on the unit sphere."""

SHADOW = np.array([0.64, 0.53, 0.57], np.float32).reshape(3, 1, 1)
"""What the darkest shadow multiplies a colour by: warm, never black."""


def rgb(*values: float) -> Array:
    return np.array(values, np.float32).reshape(3, 1, 1) / np.float32(255)


def ramp(stops: tuple[tuple[int, int, int], ...], t: float) -> Array:
    at = min(max(t, 0.0), 1.0) * (len(stops) - 1)
    k = min(int(at), len(stops) - 2)
    return rgb(*(a + (b - a) * (at - k) for a, b in zip(stops[k], stops[k + 1], strict=True)))


def hls(hue: float, lightness: float, saturation: float) -> Array:
    return np.array(colorsys.hls_to_rgb(hue % 1, lightness, saturation), np.float32).reshape(3, 1, 1)


def ease(low: float, high: float, x: float) -> float:
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def clip01(x: Array) -> Array:
    return np.minimum(np.maximum(x, 0.0), 1.0)


def smooth(low: float, high: float, x: Array) -> Array:
    t = clip01((x - low) * (1 / (high - low)))
    return t * t * (3 - 2 * t)


def blob(x: Array, y: Array, rx: float, ry: float) -> Array:
    """A soft spot: 1 at the origin, falling off as a Gaussian."""
    return np.exp(-((x * (1 / rx)) ** 2) - (y * (1 / ry)) ** 2)


def ellipse(x: Array, y: Array, rx: float, ry: float) -> Array:
    """Approximate signed distance to an ellipse about the origin."""
    u, v = x * (1 / rx), y * (1 / ry)
    r = np.sqrt(u * u + v * v) + 1e-6
    return r * (r - 1) / (np.sqrt((u * (1 / rx)) ** 2 + (v * (1 / ry)) ** 2) + 1e-6)


class Canvas:
    """A supersampled picture; `rgb` is premultiplied when there is an alpha plane."""

    def __init__(self, resolution: int, transparent: bool) -> None:
        self.over = 2 if resolution <= 256 else 1
        self.size = resolution * self.over
        self.px = 2 / self.size
        self.rgb = np.zeros((3, self.size, self.size), np.float32)
        self.alpha = np.zeros((self.size, self.size), np.float32) if transparent else None
        self.axis = ((np.arange(self.size) + 0.5) * self.px - 1).astype(np.float32)

    def window(self, xs: tuple[float, float], ys: tuple[float, float]) -> Window:
        def cut(low: float, high: float) -> slice:
            start = math.floor((low + 1) / self.px) - 1
            stop = math.ceil((high + 1) / self.px) + 1
            return slice(min(max(start, 0), self.size - 1), min(max(stop, 1), self.size))

        return cut(*ys), cut(*xs)

    def grid(self, window: Window) -> tuple[Array, Array]:
        return self.axis[None, window[1]], self.axis[window[0], None]

    def paint(self, window: Window, colour: Array, cover: Array) -> None:
        view = self.rgb[:, window[0], window[1]]
        view += (colour - view) * cover
        if self.alpha is not None:
            alpha = self.alpha[window]
            alpha += (1 - alpha) * cover

    def cover(self, distance: Array, unit: float = 1.0) -> Array:
        """Coverage of a pixel from a signed distance in lengths of `unit` canvas units."""
        return clip01(0.5 - distance * (unit / self.px))

    def image(self, channels: int) -> Array:
        planes = self.rgb if self.alpha is None else np.concatenate([self.rgb, self.alpha[None]])
        if self.over == 2:
            planes = planes[:, ::2] + planes[:, 1::2]
            planes = (planes[..., ::2] + planes[..., 1::2]) * 0.25
        if self.alpha is not None:
            planes[:3] /= np.maximum(planes[3:], 1 / 512)
        planes = clip01(planes)
        if channels == 1:
            planes = np.tensordot(np.array([[0.299, 0.587, 0.114]], np.float32), planes, 1)
        return (planes * 255 + 0.5).astype(np.uint8)


class Head:
    """The turned head: maps between the canvas, the turned unit sphere and the unturned head."""

    pivot = 0.50
    """Height on the canvas of the point that roll turns about."""
    rise = 0.565
    """From the pivot up to the middle of the head."""
    lean = 0.10
    """The chin stands before the crown, so yaw carries it this much further."""

    def __init__(self, f: Mapping[str, float]) -> None:
        self.cy, self.sy = math.cos(f["yaw"]), math.sin(f["yaw"])
        self.cp, self.sp = math.cos(f["pitch"]), math.sin(f["pitch"])
        self.cr, self.sr = math.cos(f["roll"]), math.sin(f["roll"])
        self.half = 0.465 + 0.075 * f["face_width"]
        self.wide = math.hypot(self.half * self.cy, 0.53 * self.sy)
        self.tall = 0.645
        self.taper = 0.31 - 0.28 * f["jaw"]
        az, el = f["light_azimuth"], f["light_elevation"]
        self.light = (math.cos(el) * math.sin(az), -math.sin(el), math.cos(el) * math.cos(az))
        lx, ly, lz = self.light
        self.head_light = self.unturn(self.cr * lx + self.sr * ly, self.cr * ly - self.sr * lx, lz)
        self.head_view = self.unturn(0.0, 0.0, 1.0)

    def unturn(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """A turned direction (scalars or arrays) in the frame of the unturned head."""
        y, z = y * self.cp + z * self.sp, z * self.cp - y * self.sp
        return x * self.cy - z * self.sy, y, x * self.sy + z * self.cy

    def turn(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        x, z = x * self.cy + z * self.sy, z * self.cy - x * self.sy
        return x, y * self.cp - z * self.sp, y * self.sp + z * self.cp

    def upright(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Canvas to head coordinates: roll undone, origin at the middle of the head."""
        y = y - self.pivot
        return self.cr * x + self.sr * y, self.cr * y - self.sr * x + self.rise

    def window(self, canvas: Canvas, xs: tuple[float, float], ys: tuple[float, float]) -> Window:
        """The canvas window around a box in head coordinates."""
        at = [(x, y - self.rise) for x in xs for y in ys]
        px = [self.cr * x - self.sr * y for x, y in at]
        py = [self.cr * y + self.sr * x + self.pivot for x, y in at]
        return canvas.window((min(px), max(px)), (min(py), max(py)))

    def to_sphere(self, hx: Array, hy: Array) -> tuple[Array, Array]:
        """Head coordinates to (x, y) of the turned unit sphere; its outline is the outline of the head."""
        y = hy * (1 / self.tall)
        low, high = np.maximum(y, 0.0), np.minimum(y, 0.0)
        narrow = 1 - self.taper * np.minimum(low, 1.4) ** 2 - 0.07 * high * high
        return (hx - self.lean * self.sy * y) / (self.wide * narrow), y

    def place(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Head coordinates, and depth, of a point of the unturned head (unit sphere)."""
        x, y, z = self.turn(x, y, z)
        narrow = 1 - self.taper * max(y, 0.0) ** 2 - 0.07 * min(y, 0.0) ** 2
        return x * self.wide * narrow + self.lean * self.sy * y, y * self.tall, z

    def shade(self, normal: Vector, turned: bool, gloss: float = 0.0, power: int = 1) -> tuple[Array, Array | float]:
        """Diffuse light in [0, 1] and specular light, for normals of any length on the canvas or, with
        `turned`, in the frame of the unturned head."""
        x, y, z = normal
        light, view = (self.head_light, self.head_view) if turned else (self.light, (0.0, 0.0, 1.0))
        scale = 1 / np.sqrt(x * x + y * y + z * z + 1e-6)
        diffuse = smooth(-0.35, 0.95, (x * light[0] + y * light[1] + z * light[2]) * scale)
        if not gloss:
            return diffuse, 0.0
        half = [a + b for a, b in zip(light, view, strict=True)]
        norm = 1 / math.sqrt(sum(h * h for h in half))
        shine = np.maximum((x * half[0] + y * half[1] + z * half[2]) * (scale * norm), 0.0)
        return diffuse, gloss * shine**power


def lit(albedo: Array, diffuse: Array, shine: Array | float = 0.0) -> Array:
    return albedo * (SHADOW + (1.03 - SHADOW) * diffuse) + shine


class Skin:
    """The visible half of the face: sphere and face coordinates per sample, colour and bumps to paint on."""

    def __init__(self, canvas: Canvas, head: Head, colour: Array) -> None:
        self.canvas, self.head = canvas, head
        reach = head.wide + 0.08
        self.window = head.window(canvas, (-reach, reach), (-head.tall, head.tall))
        px, py = head.to_sphere(*head.upright(*canvas.grid(self.window)))
        self.px, self.py = px, py
        self.cover = canvas.cover(ellipse(px * head.wide, py * head.tall, head.wide, head.tall))
        pz = np.sqrt(np.maximum(1 - px * px - py * py, 0.0))
        self.x, y, self.z = head.unturn(px, py, pz)
        self.y = y * ASPECT
        self.normal = [self.x.copy(), y * 0.8, self.z]  # painting bumps tilts these
        self.albedo = np.empty((3, *px.shape), np.float32)
        self.albedo[:] = colour
        self.unit = head.half

    def patch(self, xs: tuple[float, float], ys: tuple[float, float]) -> Window:
        """The part of this window that a box in face units lands in."""
        at = []
        for x in (xs[0], (xs[0] + xs[1]) / 2, xs[1]):
            for y in (ys[0] / ASPECT, ys[1] / ASPECT):
                at.append(self.head.place(x, y, math.sqrt(max(1 - x * x - y * y, 0.0)))[:2])
        pad = 0.04
        xr = min(a[0] for a in at) - pad, max(a[0] for a in at) + pad
        yr = min(a[1] for a in at) - pad, max(a[1] for a in at) + pad
        rows, cols = self.head.window(self.canvas, xr, yr)
        r0, c0 = self.window[0].start, self.window[1].start
        h, w = self.px.shape
        return (
            slice(max(rows.start - r0, 0), min(max(rows.stop - r0, 0), h)),
            slice(max(cols.start - c0, 0), min(max(cols.stop - c0, 0), w)),
        )

    def paint(self, patch: Window, colour: Array, cover: Array) -> None:
        view = self.albedo[:, patch[0], patch[1]]
        view += (colour - view) * cover

    def edge(self, distance: Array) -> Array:
        """Coverage from a signed distance in face units."""
        return self.canvas.cover(distance, self.unit)

    def raise_bump(self, patch: Window, dx: Array, dy: Array, rx: float, ry: float, height: float) -> None:
        """Tilt the normals as a Gaussian bump of this height (face units) would."""
        g = blob(dx, dy, rx, ry) * (2 * height)
        self.normal[0][patch] += g * dx * (1 / rx**2)
        self.normal[1][patch] += g * dy * (1 / ry**2)

    def plane(self, patch: Window, depth: Array | float) -> tuple[Array, Array]:
        """Face units of what stands `depth` in front of the middle of the head (the surface is at 1)."""
        h = self.head
        x = (self.px[patch] - depth * h.sy) * (1 / h.cy)
        y = (self.py[patch] + (depth * h.cy - x * h.sy) * h.sp) * (1 / h.cp)
        return x, y * ASPECT
