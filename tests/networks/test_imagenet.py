"""The names of ImageNet's classes."""

from torchvision.models import ResNet50_Weights

from catwalk.networks.imagenet import distinct_names, imagenet_categories


def test_they_are_a_thousand_different_names() -> None:
    names = imagenet_categories()
    assert len(names) == len(set(names)) == 1000
    ours = [name.partition(" (")[0] for name in names]
    assert ours == [name.partition(" (")[0] for name in ResNet50_Weights.IMAGENET1K_V2.meta["categories"]]


def test_the_classes_of_the_paper_stand_where_its_networks_have_them() -> None:
    names = imagenet_categories()
    assert [names[place] for place in (774, 770, 610, 459)] == ["sandal", "running shoe", "jersey", "brassiere"]
    assert (names[0], names[999]) == ("tench", "toilet tissue")


def test_names_that_occur_twice_are_told_apart_by_their_place() -> None:
    assert distinct_names(["crane", "maillot", "crane"]) == ("crane (0)", "maillot", "crane (2)")
    assert distinct_names(["cardigan", "Cardigan"]) == ("cardigan", "Cardigan")
