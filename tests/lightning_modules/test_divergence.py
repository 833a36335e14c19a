"""What ends in NaN or infinity says so in a line with its cause, and spoils nothing that was there before."""

import copy

import pytest
import torch
from pytorch_lightning import seed_everything

from callbacks import ResumableCheckpoint, WriteFeatures, WriteRecommendations, WriteUserMetrics
from catwalk.errors import CatwalkError, DivergedError
from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.recommenders.bpr_mf import BPRMFModel
from catwalk.shop.catalogue import Catalogue
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import (
    AMR,
    APR,
    BPRMF,
    VBPR,
    AdversarialClassifier,
    FastAdversarialClassifier,
    FreeAdversarialClassifier,
    ProductClassifier,
    TradesClassifier,
)

BACKBONE = {"backbone": "catwalk.networks.compact_cnn", "backbone_args": {"width": 4}}
VALUES = [torch.nan, torch.inf, -torch.inf]


@pytest.fixture(scope="module")
def features(shop, tmp_path_factory):
    """The folder of random features of the shop's items."""
    folder, catalogue = tmp_path_factory.mktemp("features"), Catalogue.read(shop)
    values = torch.randn(len(catalogue), 6, generator=torch.Generator().manual_seed(0))
    predictions = Predictions(values, torch.from_numpy(catalogue.categories), torch.ones(len(catalogue)))
    table = FeatureTable.from_predictions(predictions, catalogue.category_names, catalogue.fingerprint, "none")
    table.write(folder, catalogue)
    return folder


@pytest.fixture(scope="module")
def fitted(shop, features, make_trainer):
    seed_everything(0, verbose=False)
    model, data = VBPR(factors=3, visual_factors=2, top_k=[5]), InteractionTriplets(shop, features, validation=True)
    make_trainer(max_epochs=1).fit(model, data)
    return model


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


class TestRecommendersThatAreNoNumbers:
    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("run", ["validate", "test", "predict", "recommend"])
    def test_whatever_asks_for_a_ranking_is_told(self, shop, features, fitted, make_trainer, tmp_path, run, value):
        model = copy.deepcopy(fitted)
        with torch.no_grad():
            model.model.items.weight[7] = value  # one item of 90
        data, written = InteractionTriplets(shop, features, validation=True), tmp_path / "lists.csv"
        trainer = make_trainer(callbacks=[WriteRecommendations(written)] if run == "predict" else [])
        message = r"^VBPR: a score is (NaN|infinite \(-?inf\)), .*; its parameters \(model\.items\.weight\) are not"
        data.setup("predict")
        runs = {"recommend": lambda: model.recommend(torch.arange(20), 5, data)}
        ask = runs.get(run, lambda: getattr(trainer, run)(model, data))
        with pytest.raises(DivergedError, match=message):
            ask()
        assert not written.exists()

    def test_finite_parameters_whose_scores_overflow(self, shop, features, fitted, make_trainer, tmp_path):
        model = copy.deepcopy(fitted)
        with torch.no_grad():
            for table in (model.model.users.weight, model.model.items.weight):
                table.fill_(-1e25)
            model.model.users.weight[3] *= -1  # minus infinity for this user alone
        written = tmp_path / "users.csv"
        trainer = make_trainer(callbacks=[WriteUserMetrics(written, [5], categories_by="dataset")])
        with pytest.raises(DivergedError, match=r"VBPR: a score is infinite .*; its parameters are finite, so numbers"):
            trainer.test(model, InteractionTriplets(shop, features))
        assert not written.exists()

    def test_a_score_is_no_purchase_even_if_the_item_was_held_out(self, shop, make_trainer):
        """One factor, so that there is no NaN: what has overflowed is plus or minus infinity for everybody."""
        model = BPRMF(factors=1, top_k=[5])
        model._build({"num_users": 200, "num_items": 90, "num_features": 0})
        with torch.no_grad():
            model.model.users.weight.fill_(1e30)
            model.model.items.weight.fill_(0)
            model.model.items.weight[::2] = -1e30
        with pytest.raises(DivergedError, match=r"BPRMF: a score is infinite \(-inf\)"):
            make_trainer().test(model, InteractionTriplets(shop))


class TestTrainingsThatDiverge:
    @pytest.mark.parametrize("validation", [True, False])
    @pytest.mark.parametrize("kind", [BPRMF, VBPR, AMR, APR])
    def test_a_recommender(self, shop, features, make_trainer, tmp_path, kind, validation):
        """Several batches an epoch: the loss after the first step is no number."""
        kept = tmp_path / "recommender.ckpt"
        kept.write_bytes(b"of an earlier training")
        checkpoints = ResumableCheckpoint(str(tmp_path), "recommender", every_n_batches=1)
        trainer = make_trainer(max_epochs=3, callbacks=[checkpoints], enable_checkpointing=True)
        data = InteractionTriplets(shop, features, batch_size=64, validation=validation)
        message = rf"^the training of {kind.__name__} has diverged: its loss is NaN or infinite in epoch 1; lower"
        with pytest.raises(DivergedError, match=message):
            trainer.fit(kind(factors=2, optimizer=sgd(1e30)), data)
        assert kept.read_bytes() == b"of an earlier training"

    def test_one_batch_an_epoch(self, shop, make_trainer):
        """The loss was finite; the scores after the only step are not."""
        data = InteractionTriplets(shop, batch_size=10**6, validation=True)
        with pytest.raises(DivergedError, match=r"BPRMF: a score is (NaN|infinite)"):
            make_trainer(max_epochs=1).fit(BPRMF(factors=1, optimizer=sgd(1e30)), data)

    @pytest.mark.parametrize("value", VALUES)
    def test_one_loss_of_many(self, shop, make_trainer, value):
        class OnceModel(BPRMFModel):
            batches = 0

            def loss(self, *batch):
                self.batches += 1
                return super().loss(*batch) + (value if self.batches == 5 else 0)

        class Once(BPRMF):
            def make_model(self, num_users, num_items, num_features):
                return OnceModel(num_users, num_items, self.settings)

        model = Once(factors=2, optimizer=sgd(0.0))
        with pytest.raises(DivergedError, match=r"training of Once has diverged: .* in epoch 2"):
            make_trainer(max_epochs=4).fit(model, InteractionTriplets(shop, batch_size=300))

    def test_a_model_can_be_trained_again(self, shop, make_trainer):
        model, data = BPRMF(factors=2, optimizer=sgd(1e30)), InteractionTriplets(shop, batch_size=64)
        with pytest.raises(DivergedError):
            make_trainer(max_epochs=1).fit(model, data)
        for table in model.parameters():
            torch.nn.init.normal_(table, std=0.01)
        model.make_optimizer = sgd(0.01)
        make_trainer(max_epochs=1).fit(model, data)

    @pytest.mark.parametrize("share", [0.1, 0])
    @pytest.mark.parametrize(
        "kind",
        [
            ProductClassifier,
            AdversarialClassifier,
            FastAdversarialClassifier,
            FreeAdversarialClassifier,
            TradesClassifier,
        ],
    )
    def test_a_network(self, shop, make_trainer, tmp_path, kind, share):
        checkpoints = ResumableCheckpoint(str(tmp_path), "classifier")
        trainer = make_trainer(max_epochs=1, callbacks=[checkpoints], enable_checkpointing=True, limit_train_batches=4)
        data = ProductImages(shop, batch_size=16, validation_share=share)
        few = {"iterations": 1} if kind in (AdversarialClassifier, TradesClassifier) else {}
        model = kind(**BACKBONE, **few, optimizer=sgd(1e30))
        with pytest.raises(DivergedError, match=f"training of {kind.__name__} has diverged: .* in epoch 1"):
            trainer.fit(model, data)
        assert not list(tmp_path.iterdir())


class TestNetworksThatAreNoNumbers:
    @pytest.fixture
    def spoilt(self, trained):
        """The checkpoint's network, one of whose weights is NaN."""
        model = ProductClassifier.load_from_checkpoint(trained.checkpoint, weights_only=True)
        with torch.no_grad():
            next(model.network.parameters())[0] = torch.nan
        return model

    @pytest.mark.parametrize("stage", ["val", "test"])
    def test_figures(self, shop, make_trainer, spoilt, stage):
        trainer = make_trainer()
        run = trainer.validate if stage == "val" else trainer.test
        message = (
            rf"the {stage} loss of ProductClassifier is NaN or infinite; its parameters \(network\..*are not finite"
        )
        with pytest.raises(DivergedError, match=message):
            run(spoilt, ProductImages(shop, batch_size=32), verbose=False)

    def test_features(self, shop, make_trainer, spoilt, tmp_path):
        trainer = make_trainer(callbacks=[WriteFeatures(tmp_path / "features")])
        with pytest.raises(CatwalkError, match=r"features are unusable: feature 0 of item number 0 is nan"):
            trainer.predict(spoilt, ProductImages(shop, batch_size=32), return_predictions=False)
        assert not (tmp_path / "features" / "features.safetensors").exists()


@pytest.mark.parametrize("rate", [-1.0, -torch.inf])
def test_a_rate_that_the_optimizer_refuses(shop, make_trainer, rate):
    data = InteractionTriplets(shop)
    with pytest.raises(CatwalkError, match=r"^optimizer: Invalid learning rate"):
        make_trainer(max_epochs=1).fit(BPRMF(factors=2, optimizer=sgd(rate)), data)
    model = ProductClassifier(**BACKBONE, optimizer=sgd(rate))
    with pytest.raises(CatwalkError, match=r"^optimizer: Invalid learning rate"):
        make_trainer(max_epochs=1).fit(model, ProductImages(shop))
