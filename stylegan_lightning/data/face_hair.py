"""The hair of a portrait: what hangs behind the head, locks beside the face, the cap over the skull."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stylegan_lightning.data.face_canvas import Array, Canvas, Head, blob, ease, lit, ramp, rgb, smooth

HAIR = ((243, 226, 176), (219, 172, 98), (150, 96, 56), (84, 52, 38), (36, 29, 33))
AUBURN = ((244, 150, 84), (222, 112, 56), (178, 70, 38), (128, 44, 30), (84, 30, 28))


class Hair:
    """Shape and colour of the hair, painted in layers between those of the head."""

    def __init__(self, f: Mapping[str, float], canvas: Canvas, head: Head) -> None:
        self.f, self.canvas, self.head = f, canvas, head
        colour = ramp(HAIR, f["hair_melanin"])
        red = 0.85 * f["hair_redness"] * (1 - 0.5 * ease(0.7, 1.0, f["hair_melanin"]))
        self.colour = colour + (ramp(AUBURN, f["hair_melanin"]) - colour) * red
        self.dark = self.colour * 0.72 * rgb(240, 225, 235)
        self.length = f["hair_length"]
        self.cut = ease(0.03, 0.10, self.length)
        self.volume = (0.03 + 0.20 * f["hair_volume"] + 0.05 * f["hair_curl"]) * ease(0.02, 0.42, self.length)

        # how far it has grown towards hanging, over the ears, and down
        self.grown, self.over = ease(0.25, 0.45, self.length), ease(0.32, 0.50, self.length)
        self.bottom = 0.10 + 0.28 * self.grown + 0.68 * ease(0.40, 1.0, self.length)
        self.temple = -0.04 + 0.42 * self.over
        reach = self.head.wide * (1.0 + 0.8 * self.volume) + 0.04 + 0.07 * self.over
        self.reach = self.head.wide * 0.85 * (1 - self.grown) + reach * self.grown

    def hang(self, hx: Array, hy: Array) -> tuple[Array, Array]:
        """Half width of the hanging hair at each height, and the signed distance below its ends."""
        curl, bottom = self.f["hair_curl"], self.bottom
        wave = (0.008 + 0.042 * curl) * np.cos(hy * (10 + 9 * curl) + 1.0)
        up = np.minimum(hy - 0.10, 0.0) * (1 / (0.73 + 0.55 * self.volume))
        dome = np.sqrt(np.maximum(1 - up * up, 0.0))
        wide = (self.reach + wave) * dome * (1 - 0.14 * smooth(bottom - 0.5, bottom + 0.1, hy))
        low = hy - bottom + 0.25 * (hx * (1 / self.reach)) ** 2
        return wide, np.maximum(low, -0.61 - 0.5 * self.volume - hy)

    def back(self) -> None:
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
        c.paint(window, lit(self.colour * shade, diffuse), c.cover(d))

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
            colour = lit(self.colour * strands, diffuse, shine * self.colour)
            c.paint(window, colour, c.cover(d) * alpha)

    def cap(self) -> None:
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
        tint = self.colour * (0.95 + 0.09 * strands) * (1 - 0.22 * groove)
        tint = tint * (1 - 0.20 * smooth(-0.16, 0.0, y - line) * smooth(0.1, 0.5, z))
        shine = shine * (0.75 + 0.4 * strands) * (0.35 + 0.65 * self.colour)
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
