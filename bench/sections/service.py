"""What callers of our server see; no peer."""

from bench import service
from bench.comparison import Findings
from bench.sections.plan import Plan


async def measure(plan: Plan) -> Findings:
    """Throughput, latency, processor time and memory through gRPC."""
    report = await service.measure_service(
        service.Plan(
            sentences=plan.sentences.timed,
            callers=plan.callers,
            num_units=plan.num_units,
            num_rounds=plan.num_rounds,
            num_requests=plan.num_requests,
        )
    )
    return Findings(notes=[report.table()], figures=report.record())
