"""The use case: a key's prediction, by the first of three that can answer: offline, online, default. No database on the way."""

from typing import Any

import msgspec

from services.serving import metrics
from services.serving.config import ServingSettings
from services.serving.models.catalogue import Pipeline
from services.serving.models.follower import Follower
from services.serving.offline.answers import ONLINE, OfflineAnswer, Rules, nothing, rules_of
from services.serving.offline.asked import read_keys, read_many, read_seconds, renumbered
from services.serving.offline.generations import Generations
from services.serving.postprocessing.current import Configurations
from services.serving.predict import Predictor
from shared.errors import Invalid, NotFound, RelevoError, Unavailable
from shared.instances import from_epoch_us, read_key
from shared.web.raw import Call


class _Answers(msgspec.Struct, gc=False):
    model: str
    predictions: list[OfflineAnswer]


_to_json = msgspec.json.Encoder().encode

INLINE_BYTES = 16 * 1024
"""With a larger body the keys are looked up in a thread: thousands of them would hold up the event loop."""


class _Scored(msgspec.Struct, gc=False):
    prediction_id: str
    key: str
    score: float | None
    raw_score: float | msgspec.UnsetType | None = msgspec.UNSET
    decision: bool | msgspec.UnsetType | None = msgspec.UNSET
    removed: bool | msgspec.UnsetType = msgspec.UNSET


class _Predicted(msgspec.Struct):
    """What `/predict` answers."""

    model_version: int
    predictions: list[_Scored]


_read_scored = msgspec.json.Decoder(_Predicted).decode


class Lookups:
    """Answers lookups. Its coroutines belong to one event loop."""

    def __init__(
        self,
        follower: Follower,
        generations: Generations,
        predictor: Predictor,
        *,
        configurations: Configurations,
        settings: ServingSettings,
    ) -> None:
        self._follower = follower
        self._generations = generations
        self._predictor = predictor
        self._configurations = configurations
        self._settings = settings
        self._rules: dict[str, Rules] = {}

    async def one(self, call: Call, name: str, key: str) -> bytes:
        """Answer for a key.

        Raises:
            NotFound: no such pipeline, or nothing can answer; says what would cure it.
            Invalid: the query.
            Unavailable: the key could be scored online, but not now, and the pipeline has no default.
        """
        pipeline = self._pipeline(name)
        try:
            read_key(key)
        except ValueError as error:
            raise Invalid(f"The key {error}.", errors=[{"loc": ["path", "key"], "msg": str(error)}]) from None
        rules = self._rules_of(pipeline)
        limit_us = rules.limit_us(read_seconds(call.query))
        generation = self._generations.get(name)
        default = rules.default_for(key)
        found = generation.find(key) if generation is not None else None
        if generation is not None and found is not None and not rules.blind(generation):
            offline = rules.offline(generation, found, key, now_us=call.received_us, limit_us=limit_us)
            if offline is not None:
                return _to_json(self._counted(name, offline))
            answers = await self._online_or_none(
                call, pipeline, generation.instance(found, rules.key, rules.time), has_default=default is not None
            )
            if answers is not None:
                answers[0].generation = generation.offline.number
                return _to_json(self._counted(name, answers[0]))
        if default is None:
            metrics.offline_lookups(name, "nothing").value += 1
            raise NotFound(nothing(pipeline, rules, generation, known=found is not None))
        return _to_json(self._counted(name, default))

    async def many(self, call: Call, name: str) -> bytes:
        """Answer for each instance that the body holds; those that have no offline prediction are scored, as /predict does.

        Raises:
            NotFound: no such pipeline, or none is deployed while some instance has to be scored and there is no default.
            Malformed, Invalid: the body, or an instance that has to be scored.
            Unavailable: instances could be scored, but not now, and the pipeline has no default.
        """
        pipeline = self._pipeline(name)
        rules = self._rules_of(pipeline)
        if len(call.body) > INLINE_BYTES:
            instances, answers = await self._predictor.lanes.aside(self._made_ahead, call, name, rules)
        else:
            instances, answers = self._made_ahead(call, name, rules)
        if missing := [index for index, answer in enumerate(answers) if answer is None]:
            try:
                scored = await self._online(call, pipeline, [instances[index] for index in missing])
            except Invalid as error:
                raise renumbered(error, missing) from None
            except RelevoError:
                defaults = [rules.default_for(read_key(instances[index][rules.key])) for index in missing]
                scored = [default for default in defaults if default is not None]
                if len(scored) < len(missing):
                    raise
            for index, answer in zip(missing, scored, strict=True):
                answers[index] = answer
        complete = [self._counted(name, answer) for answer in answers if answer is not None]
        return _to_json(_Answers(name, complete))

    def _made_ahead(self, call: Call, name: str, rules: Rules) -> tuple[list[Any], list[OfflineAnswer | None]]:
        """The instances of the body, and what was made ahead for each; raises as `many` does for a bad body."""
        instances, limit_s = read_many(call.body, self._settings.max_instances)
        keys = read_keys(instances, rules.key)
        now_us, limit_us = call.received_us, rules.limit_us(limit_s)
        generation = self._generations.get(name)
        answers: list[OfflineAnswer | None] = [None] * len(keys)
        if generation is not None and not rules.blind(generation):
            for index, key in enumerate(keys):
                # What is removed by what it says now is for the model's own path, which answers that.
                if (found := generation.find(key)) is None or rules.removed_as_sent(instances[index]):
                    continue
                answers[index] = rules.offline(generation, found, key, now_us=now_us, limit_us=limit_us)
                if answers[index] is None and len(instances[index]) == 1:  # a key alone: what is known of it is scored
                    instances[index] = generation.instance(found, rules.key, rules.time)
        return instances, answers

    # Online

    async def _online(self, call: Call, pipeline: Pipeline, instances: list[Any]) -> list[OfflineAnswer]:
        """What /predict answers for the instances, logged as it logs."""
        at = from_epoch_us(call.received_us)
        body = await self._predictor.infer(
            call, pipeline.name, None, lambda loaded: (loaded.codec.read(instances, at), None), body_bytes=0
        )
        assert isinstance(body, bytes)
        answer = _read_scored(body)
        return [
            OfflineAnswer(
                one.key,
                ONLINE,
                one.score,
                answer.model_version,
                computed_at=at.isoformat(),
                staleness_s=0.0,
                prediction_id=one.prediction_id,
                raw_score=one.raw_score,
                decision=one.decision,
                removed=one.removed,
            )
            for one in answer.predictions
        ]

    async def _online_or_none(
        self, call: Call, pipeline: Pipeline, instance: dict[str, Any], *, has_default: bool
    ) -> list[OfflineAnswer] | None:
        """None when no version can score what is stored, or none can now and a default can answer."""
        try:
            return await self._online(call, pipeline, [instance])
        except (NotFound, Invalid):
            return None
        except RelevoError:
            if not has_default:
                raise
            return None

    # Reading

    def _pipeline(self, name: str) -> Pipeline:
        if not self._follower.known:
            raise Unavailable("This replica has not read the registry yet; try again shortly.")
        return self._follower.pipeline(name)

    def _rules_of(self, pipeline: Pipeline) -> Rules:
        known, single = self._rules.get(pipeline.name), self._configurations.of(pipeline.name).single
        if known is None or known.spec_version != pipeline.spec_version or known.single is not single:
            known = self._rules[pipeline.name] = rules_of(pipeline, single)
        return known

    def _counted(self, name: str, answer: OfflineAnswer) -> OfflineAnswer:
        metrics.offline_lookups(name, answer.source).value += 1
        return answer
