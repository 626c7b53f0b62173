"""Small clips in which a textured patch moves over a still ground: cheap to track, and without loss."""

from pathlib import Path

import av
import cv2
import numpy as np

HEIGHT, WIDTH, SIDE = 60, 80, 28


def draw_moving(path: Path, seed: int, axis: int | None, frames: int = 24, repeat: int = 1) -> Path:
    """A patch that goes to and fro by 2 px a frame along an axis, or rests; every frame ``repeat`` times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)

    def texture(height: int, width: int) -> np.ndarray:
        noise = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)

    ground, patch = texture(HEIGHT, WIDTH), texture(SIDE, SIDE)
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "bgr0"
        for number in range(frames):
            image, at = ground.copy(), [16, 26]
            if axis is not None:
                at[axis] = 2 * abs((number + seed) % 16 - 8) + 10 * axis
            image[at[0] : at[0] + SIDE, at[1] : at[1] + SIDE] = patch
            for _ in range(repeat):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="bgr0")))
        container.mux(stream.encode(None))
    return path


def lay_out_moving(root: Path, per_class: int = 4) -> Path:
    """A videofolder of two classes, a third of each for the test, and a clip of the test in which nothing moves."""
    rows = ["path,class,group,split"]
    for axis, name in enumerate(("down", "across")):
        for number in range(per_class + per_class // 2):
            draw_moving(root / f"{name}/clip{number}.avi", 10 * axis + number, axis)
            rows.append(f"{name}/clip{number}.avi,{name},{name} {number},{'train' if number < per_class else 'test'}")
    draw_moving(root / "down/still.avi", 99, None)
    rows.append("down/still.avi,down,down still,test")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")
    return root
