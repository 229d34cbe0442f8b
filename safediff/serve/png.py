"""Pictures as PNG files that say what they are and which release drew them."""

import io

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from safediff.serve.trust import Trust

NOTICE = "Synthetic picture, made by a generative model"
_DIGITAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    '"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:Iptc4xmpExt='
    '"http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="'
    f'{_DIGITAL_SOURCE}"/></rdf:RDF></x:xmpmeta>'
)


def png_bytes(picture: Tensor, trust: Trust) -> bytes:
    """PNG of a picture (3, H, W), uint8: notice, IPTC's source type, hashes; never the prompt."""
    info = PngInfo()
    info.add_text("Comment", NOTICE)
    info.add_text("Software", "safediff")
    info.add_text("safediff:release", trust.release_sha256)
    info.add_text("safediff:certificate", trust.certificate_sha256)
    if trust.unverified:
        info.add_text("safediff:unverified", trust.unverified)
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()
