"""Small pictures of tensors, as text that a record can hold."""

import base64
import io

import torch
from torch import Tensor


def thumbnails(images: Tensor) -> list[str]:
    """`[N, C, H, W]` in −1..1 → one PNG each, as a data URI; channels other than one or three are averaged."""
    from PIL import Image

    found = []
    for image in images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True):
        pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
        found.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return found
