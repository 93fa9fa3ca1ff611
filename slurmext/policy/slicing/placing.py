"""The gentle steps for one job: places that are free now, or a GPU that is taken into sliced use for it."""

from __future__ import annotations

from collections import Counter

from slurmext.model.job import Job
from slurmext.model.plan import Reason
from slurmext.model.slicing import FreeWarm, GpuUse, HoldPlaces, Reserve, SliceJob
from slurmext.policy.slicing.cards import Card, Host
from slurmext.policy.slicing.desk import Desk, Picks
from slurmext.policy.slicing.finder import TURN, Request
from slurmext.policy.slicing.kinds import Spot
from slurmext.policy.slicing.needs import asked


class Placing(Desk):
    """Start now, or take a GPU."""

    def start(self, leaf: int, shadow: Job, job: SliceJob, requests: list[Request]) -> Reason | None:
        """Give the job its places. None when it has them or a GPU is on its way; else why not."""
        refused: Reason | None = None
        for stage in (0, 1, TURN):
            for request in requests:
                found = self.site.finder(request, stage).best(job.need.nodes)
                if found is None:
                    continue
                picks = [(number, best.picks) for number, best in found]
                gpus = self.by_type(picks)
                refused = self.quotas.refused(leaf, shadow, gpus)
                if refused is not None:
                    continue
                if not self._may_turn(picks):
                    refused = Reason.SLICE_POOL
                    continue
                self._settle(leaf, shadow, job, request, picks)
                return None
        return refused or Reason.SLICE_FULL

    def _may_turn(self, picks: Picks) -> bool:
        """Whether the pools have room for all the idle GPUs that the picks take at once."""
        new: Counter[str] = Counter()
        for number, chosen in picks:
            cards = {pick.card for pick in chosen}
            for position in cards:
                card = self.yard.hosts[number].cards[position]
                new[card.card_type.gpu_type] += card.use is None
        rooms = {gpu_type: self.pools.room(gpu_type) for gpu_type, count in new.items() if count}
        return all(room is None or new[gpu_type] <= room for gpu_type, room in rooms.items())

    def _settle(self, leaf: int, shadow: Job, job: SliceJob, request: Request, picks: Picks) -> None:
        for number, chosen in picks:
            for position in sorted({pick.card for pick in chosen}):
                card = self.yard.hosts[number].cards[position]
                if card.use is not request.use:
                    self.pools.taken(card, request.use, job.id)
        usage = self.quotas.start(leaf, shadow, self.by_type(picks))
        self.take_beside(picks, request)
        cards = [self.yard.hosts[number].cards[pick.card] for number, chosen in picks for pick in chosen]
        places = self.places(picks)
        if all(card.stage == 0 for card in cards):
            self._clear_warm(job, picks)
            self.put(job, picks)
            self.reserve.append(
                Reserve(job=job.id, places=places, queue_usage=usage, why=self._explained(job, request, cards[0]))
            )
            return
        self.put(job, picks)
        there = tuple(place for place in places if self.yard.cards[place.gpu].stage == 0)
        self.hold.append(HoldPlaces(job=job.id, places=there, promised=True))
        hosts = sorted({self.yard.hosts[card.node].name for card in cards if card.stage > 0})
        self.say(job.id, Reason.SLICE_TAKING_GPU, f"on {', '.join(hosts)} a GPU is made ready for it")

    def _clear_warm(self, job: SliceJob, picks: Picks) -> None:
        """Warm instances go where they are in the way; one at the very place is used."""
        for number, chosen in picks:
            host = self.yard.hosts[number]
            for pick in chosen:
                if pick.spot is not None:
                    self._clear_spot(job, host, host.cards[pick.card], pick.spot)

    def _clear_spot(self, job: SliceJob, host: Host, card: Card, spot: Spot) -> None:
        kind = card.kind
        if kind is None:
            return
        state = kind.put(card.mig, spot)
        kept: list[tuple[Spot, str]] = []
        for warm, uuid in sorted(card.warm, key=lambda pair: (kind.parts[pair[0].profile], pair[0].start)):
            if warm == spot:
                continue
            if warm in kind.options(state, warm.profile):
                state = kind.put(state, warm)
                kept.append((warm, uuid))
            else:
                name = kind.profiles[warm.profile].name
                self.free_warm.append(
                    FreeWarm(node=host.name, gpu=card.uuid, profile=name, start=warm.start, uuid=uuid, job=job.id)
                )
        card.warm = tuple(kept)

    def _explained(self, job: SliceJob, request: Request, card: Card) -> str:
        """What a need was turned into, and why; empty for who named it."""
        need = job.need
        if need.profile is not None or need.share_pct is not None:
            return ""
        if request.use is GpuUse.MIG:
            return request.wish.why.get(card.card_type.number, "")
        share = request.wish.shares[card.card_type.number]
        what = f"{asked(need)}: a share of {share.percent} % and {share.memory_mib} MiB on {card.card_type.gpu_type}"
        if GpuUse.MIG not in request.wish.uses:
            return f"{what}; none of its GPUs can be cut into such a slice"
        if request.wish.uses[0] is GpuUse.SHARED:
            return f"{what}, as the policy prefers shares"
        cut = "no MIG slice of that size is free on the GPUs in sliced use"
        return f"{what}; {cut}, and no further GPU is taken while a share will do"
