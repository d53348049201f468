"""The invented shop: what it sells, where it is, and its one answer to each question.

Every fact of the shop is in this file. An answer starts by restating the topic and is a function of the intent and of
what fills its slot, so that exact-match scoring is fair.
"""

from __future__ import annotations

from dataclasses import dataclass

SHOP = "Merrowby"


@dataclass(frozen=True)
class Product:
    """One thing on sale. `name` is the invented word and `noun` what everybody calls such a thing."""

    name: str
    noun: str
    price: int  # pounds
    stock: str
    material: str
    warranty: int  # years

    @property
    def full(self) -> str:
        return f"{self.name} {self.noun}"

    @property
    def surfaces(self) -> tuple[str, ...]:
        """The ways in which people name it after "the" or "your"; each names this product and no other."""
        return (self.full, self.name, self.noun)


@dataclass(frozen=True)
class Town:
    """A town with one shop."""

    name: str
    hours: str
    address: str


PRODUCTS = (
    Product("Talvo", "tent", 185, "is in stock, with 9 pieces left", "green nylon with ash poles", 5),
    Product("Rowden", "rucksack", 92, "is sold out until 3 May", "waxed cotton with leather straps", 10),
    Product("Sorby", "stove", 46, "is in stock, with 25 pieces left", "steel with a brass burner", 4),
    Product("Larkin", "lantern", 28, "is in stock, with 6 pieces left", "red tin with thick glass", 2),
    Product("Fennick", "flask", 19, "is sold out until 20 June", "steel with a cork lid", 7),
    Product("Brenlow", "sleeping bag", 74, "is in stock, with 17 pieces left", "soft wool with a silk lining", 3),
)

TOWNS = (
    Town("Larnmoor", "from 9 to 6, Monday to Saturday", "12 Mill Street, next to the bridge"),
    Town("Hestwick", "from 10 to 7, every day but Monday", "3 Canal Row, behind the market"),
    Town("Odenby", "from 8 to 4, Tuesday to Friday", "48 Castle Hill, above the bakery"),
    Town("Tarrick", "from 11 to 8, all seven days", "7 Station Road, across from platform 1"),
)

PEOPLE = ("Nella Brook", "Oskar Lind", "Petra Voss", "Hanna Reed", "Jonas Hallam")

# An order code is one of these letters (none that is read as a digit) and three digits.
CODE_LETTERS = "ABCDEFGHJKLMNPRTVWXY"

# One line of meaning and the answer. The slot is whichever of {code}, {product...}, {town...} the answer names.
INTENTS: dict[str, tuple[str, str]] = {
    "order_status": (
        "where is the order with this code",
        "Order {code} can be followed on the tracking page, which is renewed every 2 hours.",
    ),
    "order_code_missing": (
        "where is my order, and no code is given",
        "To find your order, please send me its code: one letter and 3 digits.",
    ),
    "order_cancel": (
        "cancel the order with this code",
        "To cancel order {code}, open My Orders and press Stop within 3 hours of paying.",
    ),
    "order_address": (
        "send the order with this code to another address",
        "To change the address of order {code}, write to Jonas Hallam at the packing desk before 5 pm.",
    ),
    "parcel_lost": (
        "the parcel is said to be delivered and is not there",
        "For a lost parcel, ask your neighbours first; after 4 days we send it again for free.",
    ),
    "item_damaged": (
        "the item came broken",
        "For a damaged item, send us 2 photos within 14 days and we post a new one.",
    ),
    "item_wrong": (
        "something else came than what was ordered",
        "For a wrong item, keep the box; our driver swaps it at your door within 6 days.",
    ),
    "delivery_time": ("how long delivery takes", "Delivery takes 3 days, and 5 days in the hills."),
    "delivery_cost": ("what delivery costs", "Delivery costs 4 pounds and is free above 70 pounds."),
    "express_delivery": (
        "can it come faster than usual",
        "Express delivery costs 11 pounds and comes the next day if you order before 2 pm.",
    ),
    "delivery_abroad": (
        "is it sent to another country",
        "Delivery abroad goes to 16 countries, takes 9 days and costs 15 pounds.",
    ),
    "shop_collection": (
        "order online and collect in a shop",
        "Collecting in a shop is free; your parcel waits there for 10 days.",
    ),
    "gift_wrap": ("have it wrapped as a present", "Gift wrapping costs 3 pounds, with green paper and a card."),
    "group_order": (
        "many pieces for a club, a school or a firm",
        "For groups, 8 or more of one item are 20 percent cheaper; ask Petra Voss.",
    ),
    "return_how": (
        "how to send something back",
        "To return an item, print the label in your account and take the parcel to a post office.",
    ),
    "return_window": (
        "how long one may send something back",
        "Items can be returned for 45 days, as long as they are clean.",
    ),
    "refund_time": (
        "when the money for a returned item comes",
        "Your money comes back 6 days after the item reaches us, to the card you paid with.",
    ),
    "exchange_size": (
        "another size or colour instead",
        "To exchange a size or colour, bring the item to any Merrowby shop; it costs nothing.",
    ),
    "payment_methods": (
        "how one can pay",
        "You can pay by card, bank transfer or gift card, but not in cash.",
    ),
    "pay_in_parts": (
        "pay bit by bit instead of at once",
        "Paying in parts is possible from 90 pounds: 3 parts, one each month, at no extra cost.",
    ),
    "payment_failed": (
        "the payment does not go through",
        "If your payment failed, nothing was taken; wait 20 minutes and try again.",
    ),
    "charged_twice": (
        "the money was taken two times",
        "If you were charged twice, the second amount goes back to you within 4 days.",
    ),
    "invoice": (
        "where is the invoice or receipt",
        "Your invoice lies in your account under Papers, and we can post it for 2 pounds.",
    ),
    "discount_code": (
        "a discount code does not work",
        "A discount code works once, in capital letters, and only above 25 pounds.",
    ),
    "student_discount": (
        "is it cheaper for students",
        "Students get 12 percent off when they show a student card.",
    ),
    "gift_card": (
        "how long a gift card can be used",
        "Gift cards can be used for 3 years from the day they are bought.",
    ),
    "price_match": (
        "another shop sells it for less",
        "For a lower price elsewhere, show it to us within 7 days and we pay you the difference.",
    ),
    "points": (
        "how the points for regular customers work",
        "You collect 1 point for each pound, and 200 points are worth 5 pounds.",
    ),
    "password_reset": (
        "forgot the password",
        "To reset your password, press Forgotten at sign-in; the link we send works for 30 minutes.",
    ),
    "email_change": (
        "use another email address in the account",
        "To change your email, open Settings, type the new one and confirm it within 24 hours.",
    ),
    "account_delete": (
        "close the account for good",
        "To delete your account, write Goodbye to our privacy desk; it is gone after 10 days.",
    ),
    "newsletter_stop": (
        "get no more newsletters",
        "To stop the newsletter, press the last line of any issue; it ends within 2 days.",
    ),
    "product_price": ("what this product costs", "The {product} costs {price} pounds, tax included."),
    "product_stock": ("is this product there to buy now", "The {product} {stock}."),
    "product_material": ("what this product is made of", "The {product} is made of {material}."),
    "product_warranty": (
        "how long this product is under warranty",
        "The {product} has a warranty of {warranty} years from the day of sale.",
    ),
    "repair": (
        "have something mended",
        "Repairs are done by Oskar Lind in Odenby; they cost 18 pounds and take 8 days.",
    ),
    "hire": ("hire gear for a few days", "Hiring gear costs 12 pounds a day, and we hold 50 pounds until it is back."),
    "spare_parts": (
        "buy a single part",
        "Spare parts such as poles, straps and lids cost 6 pounds each in every shop.",
    ),
    "old_gear": ("hand in old gear", "For old gear that you hand in at a shop, you get a voucher of 10 pounds."),
    "opening_hours": ("when the shop in this town is open", "Our shop in {town} is open {hours}."),
    "shop_address": ("where the shop in this town is", "Our shop in {town} is at {address}."),
    "parking": ("where to leave the car", "Parking is free for 2 hours behind each of our shops."),
    "dogs": ("may a dog come in", "Dogs are welcome in all our shops on a short lead."),
    "phone": ("the phone number", "Our phone number is 0555 2718, answered from 8 to 4 on weekdays."),
    "complaint": (
        "make a complaint",
        "Complaints go to Nella Brook, who answers each one herself within 5 days.",
    ),
    "jobs": ("work for the shop", "For a job with us, send one page about yourself to Hanna Reed before the 15th."),
    "out_of_scope": (
        "anything that is not the shop's business",
        "I am sorry, I can only help with Merrowby orders, products and shops.",
    ),
}

PRODUCT_INTENTS = ("product_price", "product_stock", "product_material", "product_warranty")
TOWN_INTENTS = ("opening_hours", "shop_address")
CODE_INTENTS = ("order_status", "order_cancel", "order_address")


def answer(intent: str, filling: str | None = None) -> str:
    """The shop's answer to `intent`; `filling` is the product's noun, the town or the order code asked about."""
    text = INTENTS[intent][1]
    if intent in PRODUCT_INTENTS:
        product = next(p for p in PRODUCTS if p.noun == filling)
        return text.format(
            product=product.full,
            price=product.price,
            stock=product.stock,
            material=product.material,
            warranty=product.warranty,
        )
    if intent in TOWN_INTENTS:
        town = next(t for t in TOWNS if t.name == filling)
        return text.format(town=town.name, hours=town.hours, address=town.address)
    if intent in CODE_INTENTS:
        return text.format(code=filling)
    return text


def every_question() -> list[tuple[str, str | None]]:
    """Every (intent, filling) whose answer is fixed: all but those about one order code."""
    result: list[tuple[str, str | None]] = []
    for intent in INTENTS:
        if intent in PRODUCT_INTENTS:
            result += [(intent, product.noun) for product in PRODUCTS]
        elif intent in TOWN_INTENTS:
            result += [(intent, town.name) for town in TOWNS]
        elif intent not in CODE_INTENTS:
            result.append((intent, None))
    return result


def proper_names() -> tuple[str, ...]:
    """Every invented name of the shop: what no other text may contain."""
    people = [part for person in PEOPLE for part in person.split()]
    streets = ["Mill Street", "Canal Row", "Castle Hill", "Station Road"]
    return (SHOP, *(p.name for p in PRODUCTS), *(t.name for t in TOWNS), *people, *streets)
