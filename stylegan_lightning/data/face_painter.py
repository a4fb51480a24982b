"""Paints one portrait from its factors, at any resolution.

The canvas spans [-1, 1] in x (right) and y (down). The head is a unit sphere, stretched, tapered to the chin
and turned by yaw and pitch; z points at the viewer. Skin features are painted in *face units* (x, y) of the
unturned head seen from the front (half a face width is 1), so turning moves and foreshortens them as a real
surface would. Mirroring x together with the signed factors mirrors every expression in this file.
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

SKIN = ((252, 220, 198), (243, 199, 165), (222, 162, 120), (174, 114, 80), (114, 74, 56))
HAIR = ((243, 226, 176), (219, 172, 98), (150, 96, 56), (84, 52, 38), (36, 29, 33))
AUBURN = ((244, 150, 84), (222, 112, 56), (178, 70, 38), (128, 44, 30), (84, 30, 28))
IRIS = ((92, 160, 224), (84, 172, 150), (140, 150, 70), (150, 96, 46), (78, 48, 36))
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

    def shade(
        self, normal: Vector, turned: bool, gloss: float = 0.0, power: int = 1
    ) -> tuple[Array, Array | float]:
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


class Portrait:
    """One face being painted, back to front."""

    def __init__(self, f: Mapping[str, float], canvas: Canvas) -> None:
        self.f, self.canvas, self.head = f, canvas, Head(f)
        tone, warm = f["skin_tone"], f["skin_undertone"]
        self.skin_colour = ramp(SKIN, tone) * rgb(255 + 5 * warm, 255 + 2 * warm, 252 - 38 * warm)
        hair = ramp(HAIR, f["hair_melanin"])
        red = 0.85 * f["hair_redness"] * (1 - 0.5 * ease(0.7, 1.0, f["hair_melanin"]))
        self.hair_colour = hair + (ramp(AUBURN, f["hair_melanin"]) - hair) * red
        self.dark = self.hair_colour * 0.72 * rgb(240, 225, 235)
        self.lip_colour = self.skin_colour * rgb(226, 140, 142) + rgb(10, 0, 4)
        self.length = f["hair_length"]
        self.cut = ease(0.03, 0.10, self.length)
        self.volume = (0.03 + 0.20 * f["hair_volume"] + 0.05 * f["hair_curl"]) * ease(0.02, 0.42, self.length)

        # how far it has grown towards hanging, over the ears, and down
        self.grown, self.over = ease(0.25, 0.45, self.length), ease(0.32, 0.50, self.length)
        self.bottom = 0.10 + 0.28 * self.grown + 0.68 * ease(0.40, 1.0, self.length)
        self.temple = -0.04 + 0.42 * self.over
        reach = self.head.wide * (1.0 + 0.8 * self.volume) + 0.04 + 0.07 * self.over
        self.reach = self.head.wide * 0.85 * (1 - self.grown) + reach * self.grown

    def paint(self) -> None:
        if self.canvas.alpha is None:
            self.background()
        self.back_hair()
        self.body()
        self.locks(front=False)
        self.ears(front=False)
        self.face()
        self.ears(front=True)
        self.locks(front=True)
        self.hair_cap()
        if self.f["glasses"] > 0.5:
            self.glasses()

    def background(self) -> None:
        x, y = self.canvas.axis[None, :], self.canvas.axis[:, None]
        hue, light = self.f["background_hue"], 0.42 + 0.42 * self.f["background_lightness"]
        near, far = hls(hue, min(light + 0.10, 0.94), 0.50), hls(hue + 0.06, light - 0.10, 0.42)
        t = smooth(0.1, 1.75, np.sqrt(x * x + (y + 0.25) ** 2 * 0.8))
        self.canvas.rgb[:] = near + (far - near) * t

    def body(self) -> None:
        c, f = self.canvas, self.f
        window = c.window((-1, 1), (0.25, 1))
        x, y = c.grid(window)
        cloth = hls(f["clothes_hue"], 0.28 + 0.44 * f["clothes_lightness"], 0.46)
        # neck, shaded as a cylinder, darkest below the chin
        flare = 0.205 + 0.03 * f["jaw"] + 0.10 * smooth(0.62, 0.90, y)
        diffuse, _ = self.head.shade((x / flare, -0.1, 0.7), False)
        centre = 0.5 * f["roll"] * (0.55 - y)
        shadow = blob(x + 0.08 * self.head.light[0] - centre, y - 0.54, 0.34, 0.20)
        skin = lit(self.skin_colour, diffuse) * (1 - 0.42 * shadow)
        torso = ellipse(x, y - 1.22, 0.86, 0.50)
        neckline = ellipse(x, y - 0.74, 0.25, 0.135)
        u, v = x * (1 / 0.95), (y - 1.3) * (1 / 0.75)
        diffuse, _ = self.head.shade((u, v, np.sqrt(np.maximum(1 - u * u - v * v, 0.1))), False)
        trim = smooth(0.075, 0.055, neckline)
        c.paint(window, skin, c.cover(np.maximum(np.abs(x - centre) - flare, y - 0.86)))
        shirt = lit(cloth * (1 - 0.20 * trim), diffuse) * (1 - 0.25 * shadow)
        c.paint(window, shirt, c.cover(np.maximum(torso, -neckline)))
        c.paint(window, skin, c.cover(np.maximum(neckline, torso - 0.02)))

    # ---- hair ---------------------------------------------------------------------------------------

    def hang(self, hx: Array, hy: Array) -> tuple[Array, Array]:
        """Half width of the hanging hair at each height, and the signed distance below its ends."""
        curl, bottom = self.f["hair_curl"], self.bottom
        wave = (0.008 + 0.042 * curl) * np.cos(hy * (10 + 9 * curl) + 1.0)
        up = np.minimum(hy - 0.10, 0.0) * (1 / (0.73 + 0.55 * self.volume))
        dome = np.sqrt(np.maximum(1 - up * up, 0.0))
        wide = (self.reach + wave) * dome * (1 - 0.14 * smooth(bottom - 0.5, bottom + 0.1, hy))
        low = hy - bottom + 0.25 * (hx * (1 / self.reach)) ** 2
        return wide, np.maximum(low, -0.61 - 0.5 * self.volume - hy)

    def back_hair(self) -> None:
        """What hangs behind the head and the neck."""
        if self.grown <= 0:
            return
        c, head, reach = self.canvas, self.head, self.reach
        window = head.window(c, (-reach - 0.2, reach + 0.2), (-0.8, self.bottom + 0.1))
        hx, hy = head.upright(*c.grid(window))
        hx = hx + 0.08 * head.sy
        wide, low = self.hang(hx, hy)
        dx, dy = np.abs(hx) - wide + 0.1, low + 0.1
        d = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2) + np.minimum(np.maximum(dx, dy), 0) - 0.1
        strands = 1 + 0.06 * np.cos(hx * 34) + 0.05 * np.cos(hx * 13)
        shade = (0.90 - 0.34 * blob(hx, hy - 0.4, 0.36, 0.5)) * strands
        diffuse, _ = head.shade((hx * (1 / reach), -0.2, 0.6), False)
        c.paint(window, lit(self.hair_colour * shade, diffuse), c.cover(d))

    def locks(self, front: bool) -> None:
        """The outer part of the hanging hair, beside the face: behind the head, and the near one over it."""
        if self.over <= 0:
            return
        c, head = self.canvas, self.head
        for side in (-1, 1):
            inner, _, depth = head.place(0.90 * side, 0.05, 0.0)
            near = ease(-0.40, -0.10, depth)
            alpha = near if front else float(near < 1)
            if alpha <= 0:
                continue
            far = side * (self.reach + 0.2)
            window = head.window(c, (min(inner, far) - 0.1, max(inner, far) + 0.1), (-0.8, self.bottom + 0.1))
            hx, hy = head.upright(*c.grid(window))
            wide, low = self.hang(hx, hy)
            out = wide - side * 0.08 * head.sy
            wave = (0.006 + 0.028 * self.f["hair_curl"]) * np.cos(hy * (8 + 9 * self.f["hair_curl"]) - 0.6)
            width = np.maximum((out - side * inner + wave) * self.over, 0.02)
            width = width * (1 - 0.55 * smooth(self.bottom - 0.5, self.bottom + 0.05, hy))
            t = (hx * side - out) * (1 / width) + 1  # 0 at the inner edge, 1 at the outer
            d = np.maximum(np.maximum(hx * side - out, out - width - hx * side), low + 0.02)
            strands = 0.98 + 0.05 * np.cos(t * 11) + 0.04 * np.cos(t * 23) - 0.14 * smooth(0.35, 0.0, t)
            diffuse, shine = head.shade((side * (0.2 + 0.7 * t), -0.25, 0.75), False, 0.16, 12)
            colour = lit(self.hair_colour * strands, diffuse, shine * self.hair_colour)
            c.paint(window, colour, c.cover(d) * alpha)

    def hair_cap(self) -> None:
        if self.cut <= 0:
            return
        c, head, f = self.canvas, self.head, self.f
        curl, volume = f["hair_curl"], self.volume
        rx, ry = head.wide * (1.04 + volume), head.tall * (1.04 + 1.4 * volume)
        window = head.window(c, (-rx * 1.1 - 0.06, rx * 1.1 + 0.06), (-ry * 1.1, 0.9 * head.tall))
        u, v = head.to_sphere(*head.upright(*c.grid(window)))
        angle, beside = np.arctan2(u, 0.2 - v), smooth(0.96, 1.02, u * u + v * v)
        ripple = 1 - 0.34 * curl * np.cos(angle * 15) - 0.12 * np.cos(angle * 8)
        top = 0.15 + 0.2 * curl + (0.85 - 0.2 * curl) * smooth(0.2, -0.8, v)
        grow = 1 / (1.012 + volume * ripple * top * smooth(0.9, 0.2, v))
        u, v = u * grow, v * grow
        r2 = u * u + v * v
        x, y, z = head.unturn(u, v, np.sqrt(np.maximum(1 - r2, 0.0)))
        line, away = self.hairline(x, z)
        # beside the head one looks past the hairline at the hair behind it
        line = line + np.maximum(self.temple - line, 0.0) * beside
        inside = c.cover((y - line) * (0.9 * ry))
        cover = inside * c.cover((np.sqrt(r2) - 1) * min(rx, ry)) * self.cut
        cover = cover * (0.72 + 0.28 * ease(0.08, 0.22, self.length))
        # strands run away from the parting, from the crown down
        flow = away / np.maximum(1.15 + y, 0.1)
        strands = 0.5 * np.cos(flow * 19) + 0.3 * np.cos(flow * 41)
        strands = strands + 0.45 * curl * np.cos(y * 15) * np.cos(angle * 13)
        strands = strands * ease(0.05, 0.4, self.length)
        groove = np.exp(-((away * 16) ** 2)) * smooth(-0.1, -0.75, y) * smooth(0.0, 0.4, z)
        groove = groove * ease(0.2, 0.4, self.length)
        diffuse, shine = head.shade((x, y, z), True, 0.30, 8)
        tint = self.hair_colour * (0.95 + 0.09 * strands) * (1 - 0.22 * groove)
        tint = tint * (1 - 0.20 * smooth(-0.16, 0.0, y - line) * smooth(0.1, 0.5, z))
        shine = shine * (0.75 + 0.4 * strands) * (0.35 + 0.65 * self.hair_colour)
        c.paint(window, lit(tint, diffuse, shine), cover)

    def hairline(self, x: Array, z: Array) -> tuple[Array, Array]:
        """Height (unit sphere) at which the hair begins, and the distance from the parting."""
        f = self.f
        away = np.abs(x - 0.55 * f["hair_part"])
        grown = ease(0.08, 0.32, self.length)
        swoop = smooth(0.0, 0.62, away)
        tuft = 0.03 * (0.3 + f["hair_curl"]) * np.cos(away * 21)
        fringe = grown * f["hair_fringe"] * (0.05 + 0.42 * swoop + tuft)
        front = -0.60 + 0.07 * np.abs(x) + fringe - 0.03 * grown
        towards = z / np.sqrt(x * x + z * z + 1e-6)
        line = front + (self.temple - front) * smooth(0.78, 0.24, towards)
        return line + (0.55 - line) * smooth(0.0, -0.3, towards), away

    # ---- head ---------------------------------------------------------------------------------------

    def ears(self, front: bool) -> None:
        """Both ears behind the head, or the near one over it."""
        shown = 1 - ease(0.44, 0.48, self.length)
        if shown <= 0:
            return
        c, head = self.canvas, self.head
        for side in (-1, 1):
            ex, ey, depth = head.place(1.03 * side, 0.10, -0.06)
            alpha = shown * (ease(0.0, 0.16, depth) if front else 1.0)
            if alpha <= 0:
                continue
            rx, ry = 0.085 + 0.02 * max(depth, 0.0), 0.145
            window = head.window(c, (ex - rx * 1.5, ex + rx * 1.5), (ey - ry * 1.3, ey + ry * 1.3))
            hx, hy = head.upright(*c.grid(window))
            dx, dy = hx - ex - side * 0.10 * (ey - hy), hy - ey
            diffuse, _ = head.shade((dx * (0.6 / rx) + 0.5 * side, dy * (0.6 / ry), 0.75), False)
            inner = blob(dx + 0.012 * side, dy + 0.01, rx * 0.55, ry * 0.6)
            tint = self.skin_colour * (1 - inner * rgb(38, 84, 80))
            c.paint(window, lit(tint, diffuse), c.cover(ellipse(dx, dy, rx, ry)) * alpha)

    def face(self) -> None:
        skin = Skin(self.canvas, self.head, self.skin_colour)
        self.modelling(skin)
        self.cheeks(skin)
        self.beard(skin)
        self.nose(skin)
        self.mouth(skin)
        self.eyes(skin)
        self.brows(skin)
        nx, ny, nz = skin.normal
        diffuse, shine = self.head.shade((nx, ny, nz), True, 0.13, 14)
        self.canvas.paint(skin.window, lit(skin.albedo, diffuse, shine), skin.cover)

    def modelling(self, skin: Skin) -> None:
        """Sockets, chin, and the soft shadow that the hair throws on the forehead."""
        socket = skin.patch((-0.8, 0.8), (-0.45, 0.35))
        ax, y = np.abs(skin.x[socket]), skin.y[socket]
        side = np.sign(skin.x[socket])
        g = blob(ax - 0.40, y + 0.02, 0.30, 0.24)
        skin.normal[0][socket] -= side * g * (ax - 0.40) * 0.9
        skin.normal[1][socket] -= g * (y + 0.02) * 1.3
        skin.paint(socket, self.skin_colour * rgb(236, 205, 208), 0.35 * g)
        chin = skin.patch((-0.35, 0.35), (0.75, 1.25))
        skin.raise_bump(chin, skin.x[chin], skin.y[chin] - 1.02, 0.24, 0.16, 0.03)
        if self.length > 0.1:
            line, _ = self.hairline(skin.x, skin.z)
            shadow = smooth(0.30, 0.06, skin.y * (1 / ASPECT) - line)
            skin.albedo *= 1 - shadow * (rgb(36, 62, 57) * ease(0.1, 0.35, self.length))

    def cheeks(self, skin: Skin) -> None:
        f, smile = self.f, self.f["smile"]
        patch = skin.patch((-0.8, 0.8), (0.0, 0.72))
        x, y = skin.x[patch], skin.y[patch]
        ax, up = np.abs(x) - 0.47, 0.36 - 0.06 * smile
        puff = 0.035 + 0.035 * max(smile, 0.0)
        g = blob(ax, y - up, 0.22, 0.18) * (2 * puff)
        skin.normal[0][patch] += np.sign(x) * g * ax * (1 / 0.22**2)
        skin.normal[1][patch] += g * (y - up) * (1 / 0.18**2)
        blush = 0.10 + 0.50 * f["blush"] + 0.10 * max(smile, 0.0)
        rosy = self.skin_colour * rgb(250, 150, 146) + rgb(6, 0, 0)
        skin.paint(patch, rosy, blush * blob(ax, y - up - 0.02, 0.20, 0.15))
        if f["freckles"] > 0.02:
            spots = np.cos(np.abs(x) * 47 + 9 * y) * np.cos(y * 41 - 8 * np.abs(x))
            where = blob(np.abs(x) - 0.36, y - 0.30, 0.26, 0.13)
            spots = f["freckles"] * 0.9 * where * smooth(0.35, 0.75, spots)
            skin.paint(patch, self.skin_colour * rgb(160, 104, 80), spots)

    def beard(self, skin: Skin) -> None:
        amount = ease(0.05, 0.8, self.f["beard"])
        if amount <= 0:
            return
        x, y, smile = skin.x, skin.y, self.f["smile"]
        jaw = smooth(-0.05, 0.07, y - 0.88 + 0.85 * x * x) * smooth(-0.45, 0.0, skin.z + 0.25)
        lip = y - 0.50 + 0.10 * smile * (x * x * 8 - 0.35)
        tache = smooth(1.15, 0.75, np.sqrt((x * (1 / 0.42)) ** 2 + (lip * (1 / 0.11)) ** 2))
        grain = 1 + 0.05 * np.cos(np.abs(x) * 52 + 12 * y)
        cover = np.maximum(jaw, tache) * (0.30 + 0.62 * amount) * min(amount * 6, 1.0)
        skin.paint((slice(None), slice(None)), self.dark * grain, cover)

    def nose(self, skin: Skin) -> None:
        size = 0.74 + 0.62 * self.f["nose_size"]
        patch = skin.patch((-0.45, 0.45), (-0.25, 0.62))
        y0 = skin.y[patch]
        x, y = skin.plane(patch, 1.0 + 0.20 * smooth(-0.2, 0.34, y0))
        x, y = x * (1 / size), (y - 0.32) * (1 / (0.5 + 0.5 * size))
        skin.raise_bump(patch, x, y, 0.115, 0.10, 0.085)
        ridge = blob(x, y + 0.26, 0.085, 0.30)
        skin.normal[0][patch] += ridge * x * 6.5
        wing = blob(np.abs(x) - 0.13, y - 0.035, 0.065, 0.06)
        skin.normal[0][patch] += wing * np.sign(x) * (np.abs(x) - 0.10) * 9
        skin.paint(patch, self.skin_colour * rgb(250, 178, 168), 0.34 * blob(x, y, 0.13, 0.10))
        dark = self.skin_colour * rgb(170, 112, 108)
        lx = self.head.head_light[0]
        skin.paint(patch, dark, 0.55 * blob(x + 0.06 * lx, y - 0.125, 0.15, 0.045))
        skin.paint(patch, dark * 0.72, 0.75 * blob(np.abs(x) - 0.075, y - 0.085, 0.045, 0.028))
        glint = (0.30 - 0.12 * self.f["skin_tone"]) * blob(x - 0.05 * lx, y + 0.045, 0.05, 0.04)
        skin.paint(patch, rgb(255, 250, 244), glint)

    def mouth(self, skin: Skin) -> None:
        f, smile, lips = self.f, self.f["smile"], self.f["lips"]
        patch = skin.patch((-0.60, 0.60), (0.30, 1.12))
        x, y = skin.x[patch], skin.y[patch]
        half = 0.37 + 0.065 * smile + 0.02 * lips - 0.03 * f["mouth_open"]
        u2 = (x * (1 / half)) ** 2
        bow = np.maximum(1 - u2, 0.0)
        y = y - 0.66 + smile * 0.18 * (np.minimum(u2, 1.6) - 0.45)
        top = f["mouth_open"] * 0.07 * bow
        low = f["mouth_open"] * 0.21 * np.sqrt(bow) * (0.55 + 0.45 * bow)
        cupid = 1 - 0.32 * np.exp(-((x * (1 / 0.055)) ** 2))
        over = top + (0.035 + 0.065 * lips) * np.sqrt(bow) * (0.4 + 0.6 * bow) * cupid
        under = low + (0.040 + 0.080 * lips) * np.sqrt(bow) * (0.3 + 0.7 * bow)
        ends = (np.sqrt(u2) - 1) * half
        lip = skin.edge(np.maximum(np.maximum(-over - y, y - under), ends))
        skin.paint(patch, self.skin_colour * rgb(205, 150, 146), 0.5 * blob(x, y - under - 0.05, 0.20, 0.035))
        lower = smooth(-0.01, 0.02, y)
        skin.paint(patch, self.lip_colour * (0.88 + 0.16 * lower), lip)
        inside = skin.edge(np.maximum(np.maximum(-top - y, y - low), ends + 0.01))
        inside = inside * min(f["mouth_open"] * 12, 1.0)
        skin.paint(patch, rgb(104, 34, 42), inside)
        gap = 0.28 * f["mouth_open"]
        skin.paint(patch, rgb(214, 96, 100), inside * blob(x, y - 0.85 * gap, 0.2, 0.09))
        skin.paint(patch, rgb(252, 248, 242), inside * skin.edge(y - 0.10 * gap) * skin.edge(ends + 0.05))
        closed = np.abs(y) - 0.034 * np.sqrt(np.maximum(1.05 - u2, 0.0))
        stroke = skin.edge(np.maximum(closed, ends - 0.015)) * (1 - min(f["mouth_open"] * 8, 1.0))
        skin.paint(patch, self.lip_colour * rgb(128, 84, 92), 0.9 * stroke)
        corner = blob(np.abs(x) - half - 0.02, y, 0.055, 0.045)
        skin.paint(patch, self.skin_colour * rgb(168, 108, 104), 0.55 * corner)

    def eyes(self, skin: Skin) -> None:
        f = self.f
        patch = skin.patch((-0.80, 0.80), (-0.36, 0.34))
        x, y = skin.x[patch], skin.y[patch]
        half = 0.205 + 0.08 * f["eye_size"]
        tall = half * (0.36 + 0.62 * f["eye_open"])
        u = (np.abs(x) - 0.355 - 0.08 * f["eye_spacing"]) * (1 / half)
        v = y + 0.02 + 0.03 * u  # outer corners a little higher
        arc = np.maximum(1 - u * u, 0.0)
        upper = -tall * np.sqrt(arc) * (0.5 + 0.5 * arc)
        lower = 0.74 * tall * np.sqrt(arc) * (0.6 + 0.4 * arc)
        ends = (np.abs(u) - 1) * half
        white = skin.edge(np.maximum(np.maximum(upper - v, v - lower), ends))
        crease = np.abs(v - upper + 0.05) - 0.012
        crease = 0.6 * skin.edge(np.maximum(crease, ends + 0.03))
        skin.paint(patch, self.skin_colour * rgb(176, 118, 112), crease)
        skin.paint(patch, rgb(250, 248, 248) * (0.86 + 0.14 * smooth(-tall, 0.0, v)), white)
        self.iris(skin, patch, u * half, v, half, white)
        lash = np.abs(v - upper - 0.004) - 0.030 * (0.55 + 0.45 * smooth(-1.0, 0.9, u))
        wing = np.abs(v + 0.03 + 0.5 * (u - 0.95) * half) - 0.044 * (1.3 - u)
        wing = np.maximum(wing, np.abs(u - 1.02) * half - 0.045)
        skin.paint(patch, rgb(48, 32, 34), 0.95 * skin.edge(np.minimum(np.maximum(lash, ends - 0.01), wing)))
        under = np.abs(v - lower - 0.008) - 0.010
        under = 0.6 * skin.edge(np.maximum(under, ends + 0.02))
        skin.paint(patch, self.skin_colour * rgb(150, 96, 92), under)

    def iris(self, skin: Skin, patch: Window, u: Array, v: Array, half: float, white: Array) -> None:
        """Iris, pupil and glints, at (u, v) outward and down from the middle of either eye."""
        side = np.sign(skin.x[patch])
        gx, gy = -0.30 * self.head.sy, 0.25 * self.head.sp
        dx, dy = u - gx * half * side, v - 0.01 - gy * half
        radius = 0.66 * half
        r = np.sqrt(dx * dx + dy * dy)
        iris = ramp(IRIS, self.f["iris"])
        glow = 0.80 + 0.55 * smooth(-radius, radius, dy) - 0.55 * smooth(0.72 * radius, radius, r)
        skin.paint(patch, np.minimum(iris * glow, 1.0), white * skin.edge(r - radius))
        skin.paint(patch, rgb(26, 20, 26), white * skin.edge(r - 0.50 * radius))
        lx, ly = 0.42 * self.head.head_light[0], 0.10 + 0.5 * self.head.head_light[1]
        spot = np.sqrt((dx - side * lx * radius) ** 2 + (dy - (ly - 0.25) * radius) ** 2)
        skin.paint(patch, rgb(255, 255, 255), np.minimum(white, skin.edge(spot - 0.27 * radius)))
        spot = np.sqrt((dx + side * lx * radius) ** 2 + (dy - 0.5 * radius) ** 2)
        skin.paint(patch, rgb(255, 255, 255), 0.45 * white * skin.edge(spot - 0.15 * radius))

    def brows(self, skin: Skin) -> None:
        f = self.f
        patch = skin.patch((-0.80, 0.80), (-0.76, -0.14))
        x, y = skin.x[patch], skin.y[patch]
        half = 0.235
        u = (np.abs(x) - 0.395 - 0.07 * f["eye_spacing"]) * (1 / half)
        centre = -0.345 - 0.13 * f["brow_height"] + 0.055 * u * u - 0.085 * f["brow_angle"] * u
        thick = (0.024 + 0.052 * f["brow_thickness"]) * (1 - 0.45 * smooth(-0.2, 1.1, u))
        d = np.maximum(np.abs(y - centre) - thick, (np.abs(u) - 1) * half)
        tint = self.dark * 0.85 + self.skin_colour * 0.06
        skin.paint(patch, tint, 0.92 * skin.edge(d))

    def glasses(self) -> None:
        """A rigid frame in a plane before the eyes, its temples running back to the ears."""
        f, c, head = self.f, self.canvas, self.head
        window = head.window(c, (-head.wide * 1.15, head.wide * 1.15), (-0.32, 0.36))
        hx, hy = head.upright(*c.grid(window))
        px, py = (hx - head.lean * head.sy * hy / head.tall) * (1 / head.wide), hy * (1 / head.tall)
        depth = 1.06
        x = (px - depth * head.sy) * (1 / head.cy)
        y = (py + (depth * head.cy - x * head.sy) * head.sp) * (1 / head.cp) * ASPECT
        size, square = 0.27 + 0.06 * f["frame_size"], f["frame_shape"]
        centre = max(0.355 + 0.08 * f["eye_spacing"], size + 0.055)
        dx, dy = np.abs(np.abs(x) - centre), np.abs(y) * (1 + 0.32 * square)
        corner = size * (1 - 0.72 * square)
        ox, oy = np.maximum(dx - size + corner, 0.0), np.maximum(dy - size + corner, 0.0)
        d = np.sqrt(ox * ox + oy * oy) + np.minimum(np.maximum(dx - size, dy - size) + corner, 0.0) - corner
        rim = np.abs(d) - 0.034
        bridge = np.maximum(np.abs(y + 0.06 + 0.05 * np.cos(x * 8)) - 0.028, np.abs(x) - (centre - size))
        tint = hls(f["frame_hue"], 0.24 + 0.10 * math.cos(6.283 * f["frame_hue"]), 0.42)
        lens = c.cover(d, head.half)
        slant = 0.45 * y * np.sign(x) * math.copysign(1.0, head.light[0])
        streak = smooth(0.10, 0.05, np.abs(np.abs(x) - centre + slant))
        c.paint(window, rgb(236, 246, 255), lens * (0.10 + 0.12 * streak))
        frame = c.cover(np.minimum(rim, bridge), head.half)
        c.paint(window, tint, np.maximum(frame, self.temples(hx, hy, centre + size)))

    def temples(self, hx: Array, hy: Array, outer: float) -> Array:
        cover = np.zeros((), np.float32)
        for side in (-1, 1):
            x0, y0, _ = self.head.place(side * outer, -0.06, 1.06)
            x1, y1, z1 = self.head.place(side * 1.04, -0.04, 0.55 * self.over)
            if side * (x1 - x0) <= 0.0 and z1 <= 0:
                continue
            dx, dy = x1 - x0, y1 - y0
            norm = 1 / max(dx * dx + dy * dy, 1e-6)
            t = clip01(((hx - x0) * dx + (hy - y0) * dy) * norm)
            d = np.sqrt((hx - x0 - t * dx) ** 2 + (hy - y0 - t * dy) ** 2) - 0.015
            cover = np.maximum(cover, self.canvas.cover(d))
        return cover


def paint_face(factors: Mapping[str, float], resolution: int, channels: int) -> Array:
    """uint8 [channels, resolution, resolution]; 1 = luma, 3 = RGB, 4 = RGBA without the background."""
    canvas = Canvas(resolution, transparent=channels == 4)
    Portrait(factors, canvas).paint()
    return canvas.image(channels)
