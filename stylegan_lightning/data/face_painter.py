"""Paints one portrait from its factors, at any resolution.

Mirroring x together with the signed factors mirrors every expression here and in the modules it paints with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from stylegan_lightning.data.face_canvas import (
    ASPECT,
    Array,
    Canvas,
    Head,
    Skin,
    Window,
    blob,
    clip01,
    ease,
    ellipse,
    hls,
    lit,
    ramp,
    rgb,
    smooth,
)
from stylegan_lightning.data.face_hair import Hair

SKIN = ((252, 220, 198), (243, 199, 165), (222, 162, 120), (174, 114, 80), (114, 74, 56))
IRIS = ((92, 160, 224), (84, 172, 150), (140, 150, 70), (150, 96, 46), (78, 48, 36))


class Portrait:
    """One face being painted, back to front."""

    def __init__(self, f: Mapping[str, float], canvas: Canvas) -> None:
        self.f, self.canvas, self.head = f, canvas, Head(f)
        self.hair = Hair(f, canvas, self.head)
        tone, warm = f["skin_tone"], f["skin_undertone"]
        self.skin_colour = ramp(SKIN, tone) * rgb(255 + 5 * warm, 255 + 2 * warm, 252 - 38 * warm)
        self.lip_colour = self.skin_colour * rgb(226, 140, 142) + rgb(10, 0, 4)

    def paint(self) -> None:
        if self.canvas.alpha is None:
            self.background()
        self.hair.back()
        self.body()
        self.hair.locks(front=False)
        self.ears(front=False)
        self.face()
        self.ears(front=True)
        self.hair.locks(front=True)
        self.hair.cap()
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

    def ears(self, front: bool) -> None:
        """Both ears behind the head, or the near one over it."""
        shown = 1 - ease(0.44, 0.48, self.hair.length)
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
        if self.hair.length > 0.1:
            line, _ = self.hair.hairline(skin.x, skin.z)
            shadow = smooth(0.30, 0.06, skin.y * (1 / ASPECT) - line)
            skin.albedo *= 1 - shadow * (rgb(36, 62, 57) * ease(0.1, 0.35, self.hair.length))

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
        skin.paint((slice(None), slice(None)), self.hair.dark * grain, cover)

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
        tint = self.hair.dark * 0.85 + self.skin_colour * 0.06
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
            x1, y1, z1 = self.head.place(side * 1.04, -0.04, 0.55 * self.hair.over)
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
