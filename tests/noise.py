"""Data for studies in which nothing is to be learned, as a function of a study's own Python that has torch."""

NOISE = """\
def noise():
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(96, 1, 8, 8, generator=draw), torch.arange(96) % 10
    return {"train": (images[:64], labels[:64]), "validation": (images[64:], labels[64:])}
"""
