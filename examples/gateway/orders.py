"""An order: priced from a list, agreed to by a person if it is dear, then noted as shipped.

It is served by `serve.py`; `smithers up examples/gateway/orders.py --input '{"item": "lamp", "count": 2}'` runs one alone.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from smithers import Approval, Context, Sequence, Task, Workflow, create_smithers

PRICES = {"lamp": 40, "desk": 250, "chair": 90}
LIMIT = 200
"""What costs more is asked about."""


class Order(BaseModel):
    """What is ordered."""

    item: str = "lamp"
    count: int = Field(1, ge=1, le=100)


class Price(BaseModel):
    """What it costs."""

    total: int


class Decision(BaseModel):
    """What the person said."""

    approved: bool
    note: str | None = None


class Shipment(BaseModel):
    """What left the house."""

    label: str


smithers, outputs = create_smithers(
    {"price": Price, "decision": Decision, "output": Shipment}, input=Order, db="orders.db"
)


def price(order: Order) -> Price:
    """Look the price up; what is not on the list cannot be ordered."""
    return Price(total=PRICES[order.item] * order.count)


@smithers
def orders(ctx: Context[Order]) -> Workflow:
    """Price an order, have a dear one agreed to, ship it."""
    order = ctx.input
    cost = ctx.output_maybe(Price, "price")
    return Workflow("orders")[
        Sequence[
            Task("price", output=Price, no_retry=True)[lambda: price(order)],
            cost is not None
            and cost.total > LIMIT
            and Approval(
                "agree",
                output=Decision,
                request={"title": f"Ship {order.count} × {order.item} for {cost.total}?"},
            ),
            cost is not None and Task("ship", output=Shipment)[{"label": f"{order.count}x {order.item}"}],
        ]
    ]
