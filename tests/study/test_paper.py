"""The paper's own tables: complete, and such as its text and its numbers of images allow."""

import itertools

import pytest

from catwalk.attacks import FGSM, PGD, CarliniWagner
from catwalk.errors import CatwalkError
from catwalk.study.grid import NO_ATTACK
from catwalk.study.paper import Paper, _printed, paper_value

DATASETS, EXTRACTORS = ("amazon_women", "amazon_men"), ("T", "AT", "FAT")
ATTACKS = [FGSM(epsilon=4), FGSM(epsilon=8), PGD(epsilon=4), PGD(epsilon=8), CarliniWagner()]


def test_every_cell_is_there_under_a_studys_names():
    names = [attack.name for attack in ATTACKS]
    first = itertools.product(DATASETS, ("VBPR", "AMR"), [NO_ATTACK, *names], EXTRACTORS)
    second = itertools.product(DATASETS, names, EXTRACTORS, ("SR", "FL", "LPIPS"))
    values = [paper_value(dataset, 1, model, attack, cnn, "CHR@20") for dataset, model, attack, cnn in first]
    values += [paper_value(dataset, 2, None, attack, cnn, metric) for dataset, attack, cnn, metric in second]
    assert None not in values
    assert len(values) == len(_printed()) == 72 + 90


@pytest.mark.parametrize(("dataset", "images"), [("amazon_women", 113), ("amazon_men", 191)])
def test_rates_are_whole_numbers_of_images(dataset, images):
    rates = [
        paper_value(dataset, 2, None, attack.name, cnn, "SR") for attack, cnn in itertools.product(ATTACKS, EXTRACTORS)
    ]
    for rate in rates:
        assert abs(rate - 100 * round(rate / 100 * images) / images) <= 0.5e-2
    for fewer in range(1, images):
        assert any(abs(rate - 100 * round(rate / 100 * fewer) / fewer) > 0.51e-2 for rate in rates)


def test_what_the_papers_text_says_of_them():
    def chr_at(attack, cnn="T", model="VBPR", dataset="amazon_women"):
        return paper_value(dataset, 1, model, attack, cnn, "CHR@20")

    assert chr_at("PGD (ε = 8)") / chr_at(NO_ATTACK) - 1 > 2.3
    assert chr_at("PGD (ε = 4)") == chr_at(NO_ATTACK)
    lpips = [paper_value("amazon_men", 2, None, "FGSM (ε = 8)", cnn, "LPIPS") for cnn in ("AT", "T")]
    assert lpips[0] / lpips[1] - 1 == pytest.approx(0.34, abs=0.005)
    assert paper_value("amazon_women", 2, None, "FGSM (ε = 8)", "T", "LPIPS") == 2.8505
    # "75% of attacks have not increased CHR@20": of AMR behind a defence.
    held = [
        chr_at(attack.name, cnn, "AMR", dataset) <= chr_at(NO_ATTACK, cnn, "AMR", dataset)
        for attack, cnn, dataset in itertools.product(ATTACKS, ("AT", "FAT"), DATASETS)
    ]
    assert sum(held) / len(held) == 0.75


def test_a_study_is_given_what_is_of_its_dataset_and_its_k():
    men = Paper("amazon_men")
    assert men.chr("AMR", "PGD (ε = 8)", "T") == 2.1264
    assert men.of_images("LPIPS", "PGD (ε = 8)", "FAT") == 0.6468
    assert men.of_images("SR", NO_ATTACK, "T") is None
    assert men.of_images("Items", "PGD (ε = 8)", "T") is None  # it does not say how many
    assert Paper("amazon_men", top_k=10).chr("AMR", "PGD (ε = 8)", "T") is None
    with pytest.raises(CatwalkError, match="paper must be one of amazon_men, amazon_women, got 'amazon_kids'"):
        Paper("amazon_kids")
