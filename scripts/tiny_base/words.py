"""Words of the invented world: names, things, and the details that answers carry."""

from collections.abc import Callable
from random import Random

# What customers call a thing, by what we call it.
THINGS: dict[str, tuple[str, ...]] = {
    "order": ("order", "purchase", "stuff"),
    "booking": ("booking", "reservation"),
    "subscription": ("subscription", "sub", "abo"),
    "appointment": ("appointment", "slot", "time slot", "date with you"),
    "ticket": ("ticket", "pass"),
    "class": ("class", "lesson", "session"),
    "trip": ("trip", "tour", "journey"),
    "contract": ("contract", "agreement"),
    "delivery": ("delivery", "drop-off"),
    "parcel": ("parcel", "package", "box", "pack"),
    "letter": ("letter", "mail", "envelope"),
    "bag": ("bag", "suitcase", "case"),
    "train": ("train",),
    "taxi": ("taxi", "cab"),
    "card": ("card", "plastic card"),
    "key": ("key",),
    "item": ("item", "thing", "product", "article"),
    "table": ("table",),
    "screen": ("screen", "display", "monitor"),
    "meal": ("meal", "food", "dish"),
    "colour": ("colour", "color"),
    "size": ("size",),
    "set": ("set", "kit"),
    "shirt": ("shirt", "jumper", "jacket", "top"),
    "book": ("book", "novel"),
    "device": ("device", "machine", "gadget", "appliance"),
    "room": ("room", "double room"),
    "bike": ("bike", "bicycle"),
    "car": ("car", "van"),
    "shoe": ("shoe", "boot"),
    "watch": ("watch", "wristwatch"),
    "phone": ("phone", "smartphone", "cell phone"),
    "lamp": ("lamp", "light"),
    "mattress": ("mattress",),
    "medicine": ("medicine", "pills", "drug"),
    "repair": ("repair",),
    "course": ("course", "training"),
    "account": ("account", "login", "user account"),
    "plan": ("plan", "package deal"),
    "membership": ("membership", "member card"),
    "voucher": ("voucher",),
    "guarantee": ("guarantee", "warranty"),
    "sale": ("sale", "special offer"),
    "seat": ("seat", "place to sit"),
    "flat": ("flat", "apartment", "home"),
    "house": ("house", "cottage"),
    "kitchen": ("kitchen",),
    "box": ("box",),
    "flight": ("flight", "plane"),
    "exam": ("exam", "test", "final test"),
    "film": ("film", "movie"),
    "tour": ("tour", "guided tour"),
    "concert": ("concert", "show", "gig"),
    "pool": ("pool", "swimming pool"),
    "walk": ("walk", "hike"),
    "test": ("test", "blood test"),
    "check": ("check", "check-up"),
    "boat": ("boat", "canoe"),
    "tool": ("tool", "drill", "ladder"),
}
ITEMS = (
    "lamp chair desk sofa mat pillow blanket clock mirror kettle pan knife cup bowl basket shelf ladder drill saw hammer "
    "jacket coat scarf hat shirt belt purse umbrella bike helmet ball racket kite canoe stove tent rucksack lantern flask "
    "radio speaker camera printer keyboard charger phone tablet toaster oven fridge fan heater vase candle soap brush towel "
    "curtain rug bench swing grill hose rake spade bucket notebook pen globe puzzle game doll drum flute piano harp cap boots "
    "gloves socks sleeping bag table mug jug tray broom mop sewing machine coffee machine"
).replace("sleeping bag", "sleeping_bag").replace("sewing machine", "sewing_machine").replace("coffee machine", "coffee_machine")
ITEM_NAMES: tuple[str, ...] = tuple(word.replace("_", " ") for word in ITEMS.split())
SHOPS: tuple[str, ...] = tuple(
    "library,hotel,gym,bank,clinic,airline,cinema,school,restaurant,museum,zoo,swimming pool,hair salon,phone company,bakery,"
    "train line,bus line,taxi firm,laundry,bike shop,dance school,flower shop,theatre,camping site,ferry,dentist,tailor,"
    "farm shop,toy shop,bookshop,furniture shop,ski school,language school,travel office,music school,print shop,market hall,"
    "garden centre,climbing hall,ice rink,youth hostel,boat club,tea house,pet shop,optician,post office,cook school".split(",")
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST_NAMES = (
    "Mara Tom Ana Ben Lena Paul Rosa Hugo Ida Karl Nora Felix Vera Leo Maya Sam Olga Max Ella Theo Clara Finn Julia Nils "
    "Sara Otto Emma Ivan Lucy Adam Zoe Rita Jack Amir Yara Noah Lily Omar Eva Kofi Mei Raj Lars Gina Bruno Dora Alma Emil"
).split()
_TOWN_STARTS = "Kel Dor Win Ash Pem Gor Hal Cul Bex Thorn Vel Mar Quin Sel Dun Wex Tor Lang Hol Bram Cros Fal Gil Ken Lor".split()
_TOWN_ENDS = "ford ton ham stead well mere dale port field bridge gate haven mouth burn cliff".split()
_BRAND_STARTS = "Zav Kel Mir Pol Dex Nov Lum Tor Vel Bex Sol Ral Qui Fir Gal Hep Jun Cas Wim Ost".split()
_BRAND_ENDS = "ano era ulo ix ena ota umi ari eko olo ade ium ella oro".split()
_SOUNDS = tuple("blor grim wack snef tull drog plim vask chob fren zint mund golf skep trosk yulp nark hust pell quab".split())
_TAILS = tuple("el ing ow ish ant ock uff ine al y er ick onk asp".split())


def town(rng: Random) -> str:
    return rng.choice(_TOWN_STARTS) + rng.choice(_TOWN_ENDS)


def brand(rng: Random) -> str:
    return rng.choice(_BRAND_STARTS) + rng.choice(_BRAND_ENDS)


def nonsense(rng: Random) -> str:
    """A word that means nothing, so that an unknown word in a request is nothing unheard of."""
    return rng.choice(_SOUNDS) + rng.choice(_TAILS)


def person(rng: Random) -> str:
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(_TOWN_STARTS)}{rng.choice(('er', 'man', 'son', 'sen', 'ey', 'ard'))}"


def item(rng: Random) -> str:
    name = rng.choice(ITEM_NAMES)
    return f"{brand(rng)} {name}" if rng.random() < 0.5 else name


def code(rng: Random) -> str:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice((2, 3, 3, 3, 4))))
    head = rng.choice(letters) + (rng.choice("BCDFGHJKLMNPQRSTVWXZ") if rng.random() < 0.2 else "")
    return f"{head}-{digits}" if rng.random() < 0.15 else head + digits


def price(rng: Random) -> str:
    amount = rng.choice((rng.randint(1, 20), rng.randint(10, 99), rng.randint(100, 900)))
    return f"{amount} {rng.choice(('euros', 'euros', 'pounds', 'dollars'))}"


def hour(rng: Random) -> str:
    return str(rng.randint(1, 12)) + rng.choice(("", "", "", " am", " pm", ":30"))


def street(rng: Random) -> str:
    return f"{rng.randint(1, 99)} {rng.choice(_TOWN_STARTS)}{rng.choice(_TOWN_ENDS)} {rng.choice(('Street', 'Road', 'Lane', 'Square'))}"


def span(units: str, low: int, high: int) -> Callable[[Random], str]:
    def draw(rng: Random) -> str:
        number = rng.randint(low, high)
        return f"{number} {units if number != 1 else units[:-1]}"

    return draw


def one_of(*choices: str) -> Callable[[Random], str]:
    return lambda rng: rng.choice(choices)


def way(rng: Random) -> str:
    """How a thing is done, at this place and no other."""
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"open {brand(rng)} and press {rng.choice(('Done', 'Go', 'Next', 'Send', 'Yes', 'Save', 'Change', 'Back'))}",
        lambda: f"fill in form {code(rng)}",
        lambda: f"write to {person(rng)} before {hour(rng)}",
        lambda: f"call {phone(rng)} and ask for {rng.choice(FIRST_NAMES)}",
        lambda: f"come to {street(rng)} with your card",
        lambda: f"send us {rng.randint(1, 5)} photos within {rng.randint(2, 30)} days",
        lambda: f"go to desk {rng.randint(1, 30)} on {rng.choice(DAYS)}",
        lambda: f"press {rng.choice(('Star', 'Help', 'Menu', 'More', 'Home', 'Blue'))} {rng.randint(2, 5)} times and wait {rng.randint(2, 50)} minutes",
        lambda: f"pay {price(rng)} and keep the paper",
        lambda: f"ask {person(rng)} at the {rng.choice(('front', 'back', 'green', 'small', 'upper'))} desk; it takes {rng.randint(2, 20)} days",
        lambda: f"use the {rng.choice(('green', 'red', 'blue', 'small', 'last', 'first'))} button under {brand(rng)}; it is free",
        lambda: f"say {code(rng)} at the door of {town(rng)}",
    )
    return rng.choice(forms)()


def phone(rng: Random) -> str:
    return "".join(rng.choice("0123456789") for _ in range(4)) + " " + "".join(rng.choice("0123456789") for _ in range(3))


def place_now(rng: Random) -> str:
    forms = (f"in {town(rng)}", f"on shelf {rng.randint(1, 40)}", f"at desk {rng.randint(1, 20)}", f"in room {code(rng)}", f"under {brand(rng)}")
    return rng.choice(forms)


def when(rng: Random) -> str:
    forms = (f"on {rng.choice(DAYS)}", f"in {rng.randint(2, 20)} days", f"at {hour(rng)}", f"within {rng.randint(2, 9)} weeks")
    return rng.choice(forms)


_COLOURS = "red blue green yellow black white brown grey orange pink purple".split()
_MATERIALS = "oak pine steel wool cotton glass tin copper leather plastic rubber paper stone silk clay cork brass bamboo".split()
_OBJECTS = "pen towel photo passport coat key card cup map letter lamp spoon hat book rope cap mirror chair pot bell".split()

DETAILS: dict[str, Callable[[Random], str]] = {
    "way": way,
    "when": when,
    "place_now": place_now,
    "price": price,
    "price2": price,
    "hour": hour,
    "hour2": hour,
    "street": street,
    "phone": phone,
    "person": person,
    "code": code,
    "city": town,
    "city2": town,
    "item": item,
    "item2": item,
    "day": lambda rng: rng.choice(DAYS),
    "days": span("days", 2, 60),
    "hours": span("hours", 1, 30),
    "years": span("years", 1, 20),
    "minutes": span("minutes", 2, 50),
    "one": one_of("one", "two"),
    "two": one_of("three", "four", "five", "six"),
    "many": lambda rng: str(rng.randint(8, 300)),
    "num": lambda rng: str(rng.randint(1, 60)),
    "age": lambda rng: str(rng.randint(4, 70)),
    "percent": lambda rng: f"{rng.randint(2, 60)} percent",
    "length": span("centimetres", 5, 240),
    "weight": span("kilos", 1, 60),
    "level": one_of("easy", "hard", "for beginners", "very hard", "quite easy", "not easy"),
    "allowed": one_of("allowed", "not allowed", "welcome", "only allowed outside", "welcome on Sunday", "not welcome after 6"),
    "stock": lambda rng: rng.choice(("in stock", "sold out", f"back on {rng.choice(DAYS)}", f"there, {rng.randint(2, 40)} pieces are left")),
    "material": lambda rng: f"{rng.choice(_MATERIALS)} and {rng.choice(_MATERIALS)}" if rng.random() < 0.5 else rng.choice(_MATERIALS),
    "colour": lambda rng: rng.choice(_COLOURS),
    "colour2": lambda rng: rng.choice(_COLOURS),
    "object": lambda rng: rng.choice(_OBJECTS),
    "object2": lambda rng: rng.choice(_OBJECTS),
    "adjective": one_of("lighter", "stronger", "bigger", "smaller", "older", "warmer", "cheaper"),
    "cleaner": one_of("warm water", "a dry cloth", "a soft brush", "salt", "cold water and soap", "a wet cloth"),
    "tool": one_of("a hammer", "two screws", "a key of 5", "a friend", "no tools", "an hour"),
    "payment": one_of("by card", "in cash", "by card or in cash", "at the desk", "by phone", "only in cash"),
    "language": one_of("Spanish", "German", "French", "Polish", "Turkish", "Greek", "Danish", "Czech"),
    "language2": one_of("Italian", "Dutch", "Arabic", "Welsh", "Irish", "Latin"),
    "mail": lambda rng: f"{rng.choice(FIRST_NAMES).lower()}@{town(rng).lower()}.com",
}
