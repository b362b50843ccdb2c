"""Draws the playground's sample picture, a still life, and writes service/web/sample.jpg.

Things have parts, so that a click on them is ambiguous: a mug with a band and a handle, a plant in its pot, books on
books, a picture in its frame.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SAMPLE = Path(__file__).parent.parent.parent / "service" / "web" / "sample.jpg"
WIDTH, HEIGHT = 1440, 960
TABLE_Y = 640
SMOOTH = 3  # masks are drawn this much larger and scaled down, for smooth edges

Colour = tuple[int, int, int]
Shade = NDArray[np.float32]


class Scene:
    """A picture (H, W, 3) float32 that things are painted on, back to front."""

    def __init__(self) -> None:
        self.pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.y, self.x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)

    def mask(self, draw: Callable[[ImageDraw.ImageDraw], None]) -> Shade:
        """Coverage (H, W), 0..1, of what `draw` fills with 255, in pixels times SMOOTH."""
        image = Image.new("L", (WIDTH * SMOOTH, HEIGHT * SMOOTH))
        draw(ImageDraw.Draw(image))
        return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX), np.float32) / 255

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Shade:
        """Coverage of an ellipse, turned by `angle` degrees."""
        turn = np.deg2rad(angle)
        dx, dy = self.x - x, self.y - y
        u = (dx * np.cos(turn) + dy * np.sin(turn)) / rx
        v = (dy * np.cos(turn) - dx * np.sin(turn)) / ry
        distance = (np.sqrt(u * u + v * v) - 1) * min(rx, ry)
        return np.clip(0.5 - distance, 0, 1)

    def polygon(self, *corners: tuple[float, float]) -> Shade:
        """Coverage of a polygon."""
        points = [(x * SMOOTH, y * SMOOTH) for x, y in corners]
        return self.mask(lambda pen: pen.polygon(points, fill=255))

    def box(self, x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Shade:
        """Coverage of a rectangle with round corners."""
        area = tuple(value * SMOOTH for value in (x0, y0, x1, y1))
        return self.mask(lambda pen: pen.rounded_rectangle(area, radius * SMOOTH, fill=255))

    def paint(self, coverage: Shade, colour: Colour | NDArray[np.float32], light: Shade | float = 1.0) -> None:
        """Paint a colour times a light; light above 1 goes towards white."""
        shade = np.broadcast_to(np.asarray(light, np.float32), (HEIGHT, WIDTH))[..., None]
        painted = np.asarray(colour, np.float32) * np.minimum(shade, 1) + 255 * np.maximum(shade - 1, 0)
        self.pixels += coverage[..., None] * (painted - self.pixels)

    def shadow(self, coverage: Shade, *, blur: float, strength: float, shift: tuple[int, int] = (0, 0)) -> None:
        """Darken what lies behind a shape."""
        image = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
        dark = np.roll(np.asarray(image, np.float32) / 255, shift, (1, 0))
        self.pixels *= (1 - strength * dark)[..., None]

    def ball(self, x: float, y: float, rx: float, ry: float) -> Shade:
        """Light on a ball that is lit from the upper left."""
        u, v = (self.x - x) / rx, (self.y - y) / ry
        z = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
        diffuse = np.clip(-0.5 * u - 0.55 * v + 0.67 * z, 0, 1)
        shine = np.clip(-0.36 * u - 0.4 * v + 0.84 * z, 0, 1) ** 40
        return 0.42 + 0.6 * diffuse + 0.38 * shine

    def tube(self, x0: float, x1: float) -> Shade:
        """Light on an upright cylinder between two sides."""
        u = np.clip((self.x - (x0 + x1) / 2) / ((x1 - x0) / 2), -1, 1)
        return (
            0.5 + 0.52 * np.clip(-0.55 * u + 0.84 * np.sqrt(1 - u * u), 0, 1) + 0.12 * np.exp(-(((u + 0.5) * 7) ** 2))
        )


def main() -> None:
    """Draw everything, back to front."""
    scene = Scene()
    draw_room(scene)
    draw_framed_picture(scene)
    draw_books(scene)
    draw_plant(scene)
    draw_mug(scene)
    draw_fruit(scene)
    noise = np.random.default_rng(7).normal(0, 1.6, (HEIGHT, WIDTH, 1)).astype(np.float32)
    image = Image.fromarray(np.clip(scene.pixels + noise, 0, 255).astype(np.uint8))
    image.save(SAMPLE, quality=86, optimize=True, progressive=True)
    print(f"{SAMPLE}: {SAMPLE.stat().st_size} bytes")


def draw_room(scene: Scene) -> None:
    """A wall with light from a window, and a table of boards."""
    x, y = scene.x / WIDTH, scene.y / HEIGHT
    glow = np.exp(-(((x - 0.22) / 0.5) ** 2 + ((y - 0.12) / 0.6) ** 2))
    scene.paint(np.ones((HEIGHT, WIDTH), np.float32), (214, 216, 208), 0.8 + 0.22 * glow)
    for left in (0.04, 0.17):
        pane = scene.polygon(
            (left * WIDTH, 60), ((left + 0.11) * WIDTH, 90), ((left + 0.2) * WIDTH, 560), ((left + 0.09) * WIDTH, 530)
        )
        soft = Image.fromarray((pane * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(9))
        scene.paint(np.asarray(soft, np.float32) / 255 * 0.4, (255, 246, 222))
    grain = np.sin(scene.y * 0.9 + 2.2 * np.sin(scene.x * 0.006) + 5 * np.sin(scene.x * 0.0017)) * 0.012
    boards = 0.86 + 0.24 * (scene.y - TABLE_Y) / (HEIGHT - TABLE_Y) + grain
    for edge in (714, 812):
        boards -= 0.16 * np.exp(-(((scene.y - edge) / 1.7) ** 2))
    scene.paint(scene.box(0, TABLE_Y, WIDTH, HEIGHT), (186, 138, 94), boards)
    scene.shadow(scene.box(0, TABLE_Y - 6, WIDTH, TABLE_Y + 4), blur=7, strength=0.35)


def draw_framed_picture(scene: Scene) -> None:
    """Mountains and a sun in a wooden frame."""
    x0, y0, x1, y1 = 590, 70, 930, 330
    scene.shadow(scene.box(x0, y0, x1, y1), blur=16, strength=0.42, shift=(12, 14))
    scene.paint(scene.box(x0, y0, x1, y1, 3), (92, 62, 44), 0.85 + 0.3 * (1 - (scene.y - y0) / (y1 - y0)))
    scene.paint(scene.box(x0 + 16, y0 + 16, x1 - 16, y1 - 16), (246, 243, 234))
    inner = scene.box(x0 + 42, y0 + 42, x1 - 42, y1 - 42)
    scene.paint(inner, (122, 176, 208), 0.92 + 0.2 * (scene.y - y0) / (y1 - y0))
    scene.paint(inner * scene.ellipse(838, 158, 27, 27), (255, 214, 120))
    scene.paint(inner * scene.polygon((600, 330), (715, 150), (830, 330)), (74, 108, 132))
    scene.paint(inner * scene.polygon((700, 330), (805, 196), (940, 330)), (52, 82, 104))
    scene.paint(inner * scene.box(600, 262, 930, 330), (88, 128, 96))


def draw_books(scene: Scene) -> None:
    """Three books, one on the other."""
    books = (
        (905, 596, 1290, 668, (38, 70, 96)),
        (930, 536, 1262, 596, (196, 84, 62)),
        (950, 488, 1240, 536, (226, 180, 88)),
    )
    ground = scene.ellipse(1100, 670, 230, 20)
    scene.shadow(ground, blur=14, strength=0.5, shift=(16, 4))
    for x0, y0, x1, y1, colour in books:
        scene.paint(scene.box(x0, y0, x1, y1, 8), colour, 0.9 + 0.22 * (y1 - scene.y) / (y1 - y0))
        pages = scene.box(x1 - 54, y0 + 8, x1 - 2, y1 - 8, 3)
        lines = 0.93 + 0.05 * np.sin(scene.y * 1.9)
        scene.paint(pages, (240, 232, 214), lines)
        for band in (x0 + 46, x0 + 62):
            scene.paint(scene.box(band, y0 + 1, band + 6, y1 - 1), (246, 236, 210), 0.95)
        scene.shadow(scene.box(x0, y1 - 5, x1, y1 + 3), blur=4, strength=0.3)


def draw_plant(scene: Scene) -> None:
    """Leaves in a terracotta pot that stands on the books."""
    pot_x, pot_y = 1092, 374
    rng = np.random.default_rng(3)
    stems = [
        (-78, 168, -32),
        (84, 160, 34),
        (-40, 232, -14),
        (46, 226, 17),
        (2, 262, 2),
        (-112, 96, -58),
        (116, 92, 60),
    ]
    for dx, length, angle in stems:
        turn = np.deg2rad(angle)
        tip_x, tip_y = pot_x + dx, pot_y - length * 0.82
        middle_x, middle_y = (pot_x + tip_x) / 2, (pot_y + tip_y) / 2
        leaf = scene.ellipse(middle_x, middle_y, 27 + rng.uniform(-3, 4), length / 2, angle)
        across = (scene.x - middle_x) * np.cos(turn) + (scene.y - middle_y) * np.sin(turn)
        vein = np.exp(-((across / 2.2) ** 2))
        light = 0.8 - 0.006 * across + 0.16 * vein + rng.uniform(-0.06, 0.06)
        scene.shadow(leaf, blur=6, strength=0.22, shift=(5, 6))
        scene.paint(leaf, (62, 128, 78), light)
    pot = scene.polygon((1018, 384), (1166, 384), (1146, 488), (1038, 488))
    scene.shadow(scene.ellipse(1092, 488, 62, 9), blur=6, strength=0.5)
    scene.paint(pot, (190, 104, 72), scene.tube(1020, 1164))
    scene.paint(scene.box(1006, 354, 1178, 394, 7), (204, 116, 82), scene.tube(1006, 1178))
    scene.shadow(scene.box(1020, 394, 1164, 400), blur=4, strength=0.35)


def draw_mug(scene: Scene) -> None:
    """A mug with a band and a handle."""
    scene.shadow(scene.ellipse(420, 796, 190, 26), blur=16, strength=0.58, shift=(24, 4))
    handle = np.clip(scene.ellipse(566, 640, 78, 84) - scene.ellipse(566, 640, 48, 54), 0, 1)
    scene.paint(handle, (28, 124, 128), 0.62 + 0.5 * np.clip((690 - scene.y) / 150, 0, 1))
    body = np.maximum(scene.box(284, 520, 556, 776), scene.ellipse(420, 776, 136, 30))
    light = scene.tube(284, 556)
    scene.paint(body, (32, 138, 142), light)
    curve = 30 * np.sqrt(np.clip(1 - ((scene.x - 420) / 136) ** 2, 0, 1))
    band = np.clip(np.minimum(scene.y - (622 + curve), (690 + curve) - scene.y) + 0.5, 0, 1)
    scene.paint(body * band, (246, 240, 226), light)
    scene.paint(scene.ellipse(420, 520, 136, 30), (224, 238, 236), 0.98)
    scene.paint(scene.ellipse(420, 523, 122, 24), (36, 104, 108), 0.8)
    coffee = scene.ellipse(420, 529, 112, 19)
    scene.paint(coffee, (84, 52, 34), 0.9 + 0.25 * scene.ellipse(380, 525, 50, 6))


def draw_fruit(scene: Scene) -> None:
    """An orange, an apple with its leaf, and a lemon."""
    for x, y, rx in ((760, 850, 118), (952, 866, 104), (640, 892, 84)):
        scene.shadow(scene.ellipse(x + 16, y, rx, rx * 0.17), blur=13, strength=0.55)
    orange = scene.ellipse(752, 752, 112, 108)
    pores = np.random.default_rng(1).normal(0, 0.012, (HEIGHT, WIDTH)).astype(np.float32)
    scene.paint(orange, (240, 138, 34), scene.ball(752, 752, 118, 114) + pores)
    scene.paint(scene.ellipse(726, 664, 9, 5, -10), (92, 110, 48), 0.9)
    apple = np.maximum(scene.ellipse(918, 786, 82, 88, 8), scene.ellipse(986, 786, 82, 88, -8))
    scene.shadow(apple, blur=10, strength=0.3, shift=(-8, 6))
    scene.paint(apple, (196, 44, 48), scene.ball(950, 786, 122, 104))
    scene.shadow(scene.ellipse(952, 704, 40, 11), blur=7, strength=0.6)
    scene.paint(scene.polygon((948, 706), (957, 706), (970, 646), (961, 644)), (92, 62, 40))
    leaf = scene.ellipse(1004, 660, 42, 17, -24)
    scene.paint(leaf, (92, 156, 70), 0.86 + 0.004 * (680 - scene.y) * 4)
    lemon = np.maximum(scene.ellipse(632, 840, 86, 60, -12), scene.ellipse(716, 822, 16, 12, -12))
    scene.paint(lemon, (246, 212, 66), scene.ball(632, 838, 100, 68))


if __name__ == "__main__":
    main()
