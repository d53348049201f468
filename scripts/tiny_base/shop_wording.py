"""How customers of shops word things: the phrases of train and held-out, asked of shops that do not exist.

A model that has read a library knows that "My password has slipped my mind" asks for a new password; so does this one,
by having read such phrases in dialogues with other shops, whose names, prices and answers are drawn afresh. What the
unseen split has of phrases, openings and joints stands nowhere in the text.
"""

from functools import cache

from support_data import company, phrasebook
from support_data.phrasebook import Lines

# The kind of request (see `requests/`) that an intent of the shop is, and what stands for the noun of that kind.
KIND_OF = {
    "order_status": ("code_status", ""),
    "order_code_missing": ("code_ask", ""),
    "order_cancel": ("code_cancel", ""),
    "order_address": ("code_address", ""),
    "parcel_lost": ("lost", "parcel"),
    "item_damaged": ("damaged", "item"),
    "item_wrong": ("wrong", "item"),
    "delivery_time": ("delivery_time", ""),
    "delivery_cost": ("delivery_cost", ""),
    "express_delivery": ("express", ""),
    "delivery_abroad": ("delivery_area", ""),
    "shop_collection": ("self_collect", ""),
    "gift_wrap": ("gift_wrap", ""),
    "group_order": ("many", ""),
    "return_how": ("return", "item"),
    "return_window": ("return_time", ""),
    "refund_time": ("refund", ""),
    "exchange_size": ("exchange", "item"),
    "payment_methods": ("payment", ""),
    "pay_in_parts": ("in_parts", ""),
    "payment_failed": ("payment_failed", ""),
    "charged_twice": ("charged_twice", ""),
    "invoice": ("invoice", "order"),
    "discount_code": ("code_fails", ""),
    "student_discount": ("student", ""),
    "gift_card": ("giftcard_time", ""),
    "price_match": ("price_match", ""),
    "points": ("points", ""),
    "password_reset": ("password", ""),
    "email_change": ("email", ""),
    "account_delete": ("close_account", ""),
    "newsletter_stop": ("newsletter_off", ""),
    "product_price": ("price", ""),
    "product_stock": ("stock", ""),
    "product_material": ("material", ""),
    "product_warranty": ("guarantee", "{item}"),
    "repair": ("repair", "item"),
    "hire": ("borrow", "item"),
    "spare_parts": ("spare", "item"),
    "old_gear": ("old_things", ""),
    "opening_hours": ("hours", ""),
    "shop_address": ("address", ""),
    "parking": ("parking", ""),
    "dogs": ("dogs", ""),
    "phone": ("phone", ""),
    "complaint": ("complaint", ""),
    "jobs": ("jobs", ""),
}


@cache
def sentences(intent: str) -> tuple[str, ...]:
    """The phrases of an intent as bare sentences: no capital, no mark at the end, slots named as in `requests/`."""
    return _bare(phrasebook.intents()[intent])


@cache
def small_talk(name: str) -> tuple[str, ...]:
    """What customers of shops put around a question: `before`, `after`, `joints`, or ask besides: `outside`."""
    match name:
        case "before":
            return _bare(phrasebook.wrapping().openings)
        case "after":
            return _bare(phrasebook.wrapping().closings)
        case "joints":
            return tuple(line.lower().replace("{a} ", "{a}. ") for line in _read(phrasebook.wrapping().joints))
        case "outside":
            return _bare(phrasebook.intents()["out_of_scope"])
        case _:
            return ()


def _bare(lines: Lines) -> tuple[str, ...]:
    renamed = (text.replace("{items}", "{item}s").replace("{town}", "{city}") for text in _read(lines))
    return tuple((text[0].lower() + text[1:]).rstrip(" .,:!?") for text in renamed)


def _read(lines: Lines) -> list[str]:
    texts = [phrase.text for split in ("train", "heldout") for phrase in lines[split]]
    return [text for text in texts if not any(name in text for name in company.proper_names())]
