"""What AMD calls its GPUs, as data: one PCI id covers several products, told apart by compute units and PCI revision.

Names and revisions are those of the public list ``amdgpu.ids`` (libdrm, 2026) and, if it has none, of ``pci.ids``. Compute
units, bus widths and bandwidths are those of AMD's product pages and data sheets. A dash stands for a figure that was not
found, on which sources differ, or which differs between products of one name or by the memory that a maker fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

UNIFIED_TARGETS: Final = frozenset(
    "gfx902 gfx909 gfx90c gfx1013 gfx1033 gfx1035 gfx1036 gfx1037 gfx1103 gfx1150 gfx1151 gfx1152 gfx1153".split()
)
"""GPUs that have no memory of their own, but a part of the system's."""
UNIFIED_IDS: Final = frozenset({"74a0"})
"""PCI ids of GPUs that share their memory with a CPU, though others of their target have their own: the MI300A."""
PARTITIONED_TARGETS: Final = frozenset({"gfx942", "gfx950"})
"""GPUs that can be divided into several compute partitions."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product. ``bus_bits`` is the width of its memory bus, ``bandwidth`` what AMD states, in bytes per second.

    ``revisions`` are the PCI revisions that mean this product; none means each that isn't listed for another.
    """

    name: str
    gfx_target: str
    pci_id: str
    revisions: frozenset[str]
    compute_units: int | None = None
    bus_bits: int | None = None
    bandwidth: float | None = None


# Target, PCI id, revisions, compute units, bits of the memory bus, GB/s, name.
# Read elsewhere than on a page of AMD's:
# - R9600D: its page amd.com/en/products/graphics/workstations/radeon-ai-pro/ai-9000-series/amd-radeon-ai-pro-r9600d.html as quoted
#   in a public comparison of costs (640 GB/s); 48 units and 32 GiB in rocm.docs.amd.com, reference/gpu-specs, which 256 bits hold.
# - RX 9050: 16 units in rocm.docs.amd.com, reference/gpu-specs. It is two products, of 8 and 4 GB with 32 and 16 MiB of cache, and
#   no list says which revision is which: reports of 128 bits and 288 GB/s are older than both, and have twice the units.
# - RX 6550S, RX 6450M: techpowerup.com/gpu-specs/radeon-rx-6550s.c3981 and radeon-rx-6450m.c4018 (64 bits at 16 Gbps);
#   the first also notebookcheck.biz/AMD-Radeon-RX-6550S.773598.0.html.
# - Pro W6300, W6300M: techpowerup.com/gpu-specs/radeon-pro-w6300.c3982 and radeon-pro-w6300m.c3952 (32 bits at 16 Gbps).
# - RX 6650M: 128 bits, but 14 Gbps (techpowerup.com, c3863), 16 (hmc-tech.com) or 18 (notebookcheck.biz). None is stated here.
# - RX 5600 XT: 192 bits at 12 or 14 Gbps, by the BIOS of the card (tomshardware.com/news/amd-rx-5600-xt-specs-nvidia-rtx-2060).
# - Steam Machine: units and bus of an RX 7600M (pausehardware.com/steam-machine-gpu-radeon-rx-7600m); no source has its clock.
_TABLE: Final = """
gfx1151  1586  c1,c3,c6,d1        40   256   256  Radeon 8060S
gfx1151  1586  c2,c4,d2,d4        32   256   256  Radeon 8050S
gfx1151  1586  d5                 16   -     -    Radeon 8040S
gfx1150  150e  c1,c5,c6,c7,d1,d3,e1,e3,e4,f1,f3  -  128  -  Radeon 890M
gfx1150  150e  c4,d2              12   128   -    Radeon 880M
gfx1152  1114  c2,d2,e2,e4,e9,ed,f2,f9,fc  8   128   -    Radeon 860M
gfx1152  1114  c3,d3,e5,ea,ee,f3,fa,fd  4    128   -    Radeon 840M
gfx1103  15bf  00,02,06,c1,c2,c4,c6,c7,c9,cf,d0,d1,d2,d3,d4,d7,d9,da,dd  12  128  -  Radeon 780M
gfx1103  15bf  01,03,05,c3,c8,cb,cd,d5,d6,db,dc,df,f0  -  128  -  Radeon 760M
gfx1103  15bf  07,08,c5,ca,cc,ce,d8,de  -  128  -  Radeon 740M
gfx1103  15c8  *                  -    128   -    Radeon 740M
gfx1103  1900  01,03,05,06,b0,b1,b2,b3,b4,b5,b6,b9,ba,bb,c0,c2,c4,c5,c7,c9,cb,cc,ce,d0,d2,d4,d5,d7,d9,db,dc,de,f0,f1,f2  12  128  -  Radeon 780M
gfx1103  1900  02,04,07,b7,b8,c1,c3,c6,c8,ca,cd,cf,d1,d3,d6,d8,da,dd,df  -  128  -  Radeon 760M
gfx1103  1901  *                  -    128   -    Radeon 740M
gfx1036  164e  d8,d9,da,db,dc     2    128   -    Radeon 610M
gfx1036  164e  *                  2    128   -    Radeon Graphics (Raphael)
gfx1036  13c0  *                  2    128   -    Radeon Graphics (Granite Ridge)
gfx1036  1506  *                  2    -     -    Radeon 610M
gfx1035  1681  06,0a,c7,c8        12   128   -    Radeon 680M
gfx1035  1681  07,0b,c9           6    128   -    Radeon 660M
gfx1035  164d  *                  -    128   -    Radeon Graphics (Rembrandt)
gfx1033  163f  *                  8    128   -    Radeon Graphics (Van Gogh)
gfx1033  1435  *                  8    128   -    Radeon Graphics (Sephiroth)
gfx1013  13fe  *                  24   256   448  BC-250
gfx90c   1636  *                  -    128   -    Radeon Graphics (Renoir)
gfx90c   164c  *                  -    128   -    Radeon Graphics (Lucienne)
gfx90c   1638  *                  -    128   -    Radeon Graphics (Cezanne)
gfx90c   15e7  *                  -    128   -    Radeon Graphics (Barcelo)
gfx902   15dd  *                  -    -     -    Radeon Vega Graphics (Raven)
gfx902   15d8  *                  -    -     -    Radeon Vega Graphics (Picasso)
gfx1201  7550  c0                 64   256   640  Radeon RX 9070 XT
gfx1201  7550  c3                 56   256   640  Radeon RX 9070
gfx1201  7550  c2                 48   192   432  Radeon RX 9070 GRE
gfx1201  7551  c0                 64   256   640  Radeon AI PRO R9700
gfx1201  7551  c8                 48   256   640  Radeon AI PRO R9600D
gfx1200  7590  c0                 32   128   320  Radeon RX 9060 XT
gfx1200  7590  c1                 32   128   320  Radeon RX 9060 XT LP
gfx1200  7590  c7                 28   128   288  Radeon RX 9060
gfx1200  7590  cf,df              16   -     -    Radeon RX 9050
gfx1100  744c  c8                 96   384   960  Radeon RX 7900 XTX
gfx1100  744c  cc                 84   320   800  Radeon RX 7900 XT
gfx1100  744c  ce                 80   256   576  Radeon RX 7900 GRE
gfx1100  744c  cf                 72   256   576  Radeon RX 7900M
gfx1100  7448  00                 96   384   864  Radeon Pro W7900
gfx1100  744a  00                 96   384   864  Radeon Pro W7900 Dual Slot
gfx1100  744b  00                 96   384   864  Radeon Pro W7900D
gfx1100  7449  00                 70   384   864  Radeon Pro W7800 48GB
gfx1100  745e  cc                 70   256   576  Radeon Pro W7800
gfx1101  747e  c8                 60   256   624  Radeon RX 7800 XT
gfx1101  747e  ff                 54   192   432  Radeon RX 7700 XT
gfx1101  747e  db                 40   256   624  Radeon RX 7700
gfx1101  747e  d8                 60   192   432  Radeon RX 7800M
gfx1101  7470  00                 48   256   576  Radeon Pro W7700
gfx1101  7460  00                 54   224   448  Radeon Pro V710
gfx1101  7461  00                 -    224   448  Radeon Pro V710 MxGPU
gfx1102  7480  cf                 32   128   288  Radeon RX 7600
gfx1102  7480  c0                 32   128   288  Radeon RX 7600 XT
gfx1102  7480  c2                 32   128   288  Radeon RX 7650 GRE
gfx1102  7480  c1                 32   128   288  Radeon RX 7700S
gfx1102  7480  c3                 28   128   256  Radeon RX 7600S
gfx1102  7480  c7                 32   128   288  Radeon RX 7600M XT
gfx1102  7480  00                 32   128   288  Radeon Pro W7600
gfx1102  7481  c7                 28   128   -    Steam Machine
gfx1102  7483  cf                 28   128   256  Radeon RX 7600M
gfx1102  7489  00                 28   128   172  Radeon Pro W7500
gfx1102  7499  c0                 28   128   173  Radeon RX 7400
gfx1102  7499  c1                 -    -     -    Radeon RX 7300
gfx1102  7499  00                 28   128   173  Radeon Pro W7400
gfx1030  73a5  c0                 80   256   576  Radeon RX 6950 XT
gfx1030  73af  c0                 80   256   512  Radeon RX 6900 XT
gfx1030  73bf  c0                 80   256   512  Radeon RX 6900 XT
gfx1030  73bf  c1                 72   256   512  Radeon RX 6800 XT
gfx1030  73bf  c3                 60   256   512  Radeon RX 6800
gfx1030  73a3  00                 60   256   512  Radeon Pro W6800
gfx1030  73a1  00                 72   256   512  Radeon Pro V620
gfx1030  73ae  00                 -    256   512  Radeon Pro V620 MxGPU
gfx1031  73df  c0                 40   192   432  Radeon RX 6750 XT
gfx1031  73df  d5,e5              40   192   432  Radeon RX 6750 GRE 12GB
gfx1031  73df  c1,c5              40   192   384  Radeon RX 6700 XT
gfx1031  73df  df,ff              36   160   320  Radeon RX 6700
gfx1031  73df  c2,c3              40   192   384  Radeon RX 6800M
gfx1031  73df  cf                 36   160   320  Radeon RX 6700M
gfx1031  73ff  df                 36   160   320  Radeon RX 6750 GRE 10GB
gfx1032  73ef  c1                 32   128   280  Radeon RX 6650 XT
gfx1032  73ef  c0                 32   128   256  Radeon RX 6800S
gfx1032  73ef  c2                 28   128   224  Radeon RX 6700S
gfx1032  73ef  c3                 28   128   -    Radeon RX 6650M
gfx1032  73ef  c4                 32   128   256  Radeon RX 6650M XT
gfx1032  73ff  c1                 32   128   256  Radeon RX 6600 XT
gfx1032  73ff  c7                 28   128   224  Radeon RX 6600
gfx1032  73ff  cf                 28   128   224  Radeon RX 6600 LE
gfx1032  73ff  c3                 28   128   224  Radeon RX 6600M
gfx1032  73ff  cb                 28   128   224  Radeon RX 6600S
gfx1032  73e0  00                 28   128   224  Radeon RX 6600M
gfx1032  73e1  00                 28   128   224  Radeon Pro W6600M
gfx1032  73e3  00                 28   128   224  Radeon Pro W6600
gfx1034  743f  c1                 16   64    144  Radeon RX 6500 XT
gfx1034  743f  c7,d7              12   64    128  Radeon RX 6400
gfx1034  743f  c8                 16   64    144  Radeon RX 6500M
gfx1034  743f  c3                 -    64    -    Radeon RX 6500 / 6500M
gfx1034  743f  d3                 16   64    144  Radeon RX 6550M
gfx1034  743f  cc                 16   64    128  Radeon RX 6550S
gfx1034  743f  ce                 12   64    128  Radeon RX 6450M
gfx1034  743f  cf                 12   32    64   Radeon RX 6300M
gfx1034  7424  00                 12   32    64   Radeon RX 6300
gfx1034  7421  00                 16   64    128  Radeon Pro W6500M
gfx1034  7422  00                 12   64    128  Radeon Pro W6400
gfx1034  7423  00                 12   32    64   Radeon Pro W6300M
gfx1034  7423  01                 12   32    64   Radeon Pro W6300
gfx1010  731f  c0,c1,c5           40   256   448  Radeon RX 5700 XT
gfx1010  731f  c4                 36   256   448  Radeon RX 5700
gfx1010  731f  ca                 36   192   -    Radeon RX 5600 XT
gfx1010  7312  00                 36   256   448  Radeon Pro W5700
gfx1012  7340  c5                 22   128   224  Radeon RX 5500 XT
gfx1012  7340  c1                 22   128   224  Radeon RX 5500M
gfx1012  7341  00                 22   128   224  Radeon Pro W5500
gfx950   75a0  00                 256  8192  8000 Instinct MI350X
gfx950   75a3  00                 256  8192  8000 Instinct MI355X
gfx950   75b0  00                 -    -     -    Instinct MI350X VF
gfx950   75b3  00                 -    -     -    Instinct MI355X VF
gfx942   74a1  00                 304  8192  5300 Instinct MI300X
gfx942   74b5  00                 -    -     -    Instinct MI300X VF
gfx942   74a9  00                 -    -     -    Instinct MI300X HF
gfx942   74a0  00                 228  8192  5300 Instinct MI300A
gfx942   74a2  00                 80   8192  -    Instinct MI308X
gfx942   74b6  00                 -    -     -    Instinct MI308X
gfx942   74bd  00                 -    -     -    Instinct MI300X HF
gfx942   74a8  00                 -    -     -    Instinct MI308X HF
gfx942   74a5  00                 304  8192  6000 Instinct MI325X
gfx90a   7408  00                 110  4096  1638 Instinct MI250X
gfx90a   740c  01                 110  4096  1638 Instinct MI250X
gfx90a   740c  01                 104  4096  1638 Instinct MI250
gfx90a   740f  02                 104  4096  1638 Instinct MI210
gfx908   738c  01                 120  4096  1229 Instinct MI100
gfx906   66a1  02                 64   4096  1024 Instinct MI60
gfx906   66a1  02                 60   4096  1024 Instinct MI50
gfx906   66a1  06                 60   4096  1024 Radeon Pro VII
gfx906   66af  c1                 60   4096  1024 Radeon VII
gfx900   687f  c0,c1              64   2048  484  Radeon RX Vega 64
gfx900   687f  c3,c7              56   2048  410  Radeon RX Vega 56
gfx900   6863  00                 64   2048  484  Radeon Vega Frontier Edition
gfx900   6860  *                  64   2048  484  Radeon Instinct MI25
gfx900   6861  00                 64   2048  484  Radeon Pro WX 9100
gfx900   6868  00                 56   2048  512  Radeon Pro WX 8200
"""


def _product(line: str) -> Product:
    target, pci_id, revisions, units, bits, gigabytes, name = line.split(maxsplit=6)
    return Product(
        name=name,
        gfx_target=target,
        pci_id=pci_id,
        revisions=frozenset() if revisions == "*" else frozenset(revisions.split(",")),
        compute_units=None if units == "-" else int(units),
        bus_bits=None if bits == "-" else int(bits),
        bandwidth=None if gigabytes == "-" else int(gigabytes) * 1e9,
    )


PRODUCTS: Final[tuple[Product, ...]] = tuple(map(_product, _TABLE.strip().splitlines()))


def find_products(pci_id: str | None, revision: str | None, compute_units: int | None) -> tuple[Product, ...]:
    """Find the products that the evidence leaves: one if it decides, several if it doesn't, none for an unknown id.

    ``pci_id`` and ``revision`` are lower-case hex without prefix. What was counted goes before what a revision says.
    """
    left = [product for product in PRODUCTS if product.pci_id == pci_id]
    if compute_units is not None:
        left = [product for product in left if product.compute_units in (compute_units, None)] or left
        counted = [product for product in left if product.compute_units == compute_units]
        if len(counted) == 1 and not any(revision in product.revisions for product in left):
            left = counted
    revised = [product for product in left if revision in product.revisions]
    others = [product for product in left if not product.revisions] if revision else []
    return tuple(revised or others or left)


def describe(products: tuple[Product, ...]) -> str | None:
    """Name what was found: ``Radeon 8060S``, or ``Radeon 8060S / 8050S`` if it may be either."""
    if not products:
        return None
    first, *others = dict.fromkeys(product.name for product in products)
    make = first.split()[0] + " "
    return " / ".join([first, *(name.removeprefix(make) for name in others)])


def shared(values: Sequence[T | None]) -> T | None:
    """The value that all of them share, if they do."""
    return values[0] if len(set(values)) == 1 else None
