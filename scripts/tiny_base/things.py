"""Names of things, places and people, as bare lists."""

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


def listed(text: str) -> tuple[str, ...]:
    """The words of a text; an underscore stands for a space within one."""
    return tuple(word.replace("_", " ") for word in text.split())


ITEM_NAMES = listed(
    "lamp chair desk sofa mat pillow blanket clock mirror kettle pan knife cup bowl basket shelf ladder drill saw "
    "hammer jacket coat scarf hat shirt belt purse umbrella bike helmet ball racket kite canoe stove tent rucksack "
    "lantern flask radio speaker camera printer keyboard charger phone tablet toaster oven fridge fan heater vase "
    "candle soap brush towel curtain rug bench swing grill hose rake spade bucket notebook pen globe puzzle game doll "
    "drum flute piano harp cap boots gloves socks sleeping_bag table mug jug tray broom mop sewing_machine "
    "coffee_machine"
)
SHOPS = listed(
    "library hotel gym bank clinic airline cinema school restaurant museum zoo swimming_pool hair_salon phone_company "
    "bakery train_line bus_line taxi_firm laundry bike_shop dance_school flower_shop theatre camping_site ferry "
    "dentist tailor farm_shop toy_shop bookshop furniture_shop ski_school language_school travel_office music_school "
    "print_shop market_hall garden_centre climbing_hall ice_rink youth_hostel boat_club tea_house pet_shop optician "
    "post_office cook_school"
)
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
FIRST_NAMES = listed(
    "Mara Tom Ana Ben Lena Paul Rosa Hugo Ida Karl Nora Felix Vera Leo Maya Sam Olga Max Ella Theo Clara Finn Julia "
    "Nils Sara Otto Emma Ivan Lucy Adam Zoe Rita Jack Amir Yara Noah Lily Omar Eva Kofi Mei Raj Lars Gina Bruno Dora "
    "Alma Emil"
)
TOWN_STARTS = listed(
    "Kel Dor Win Ash Pem Gor Hal Cul Bex Thorn Vel Mar Quin Sel Dun Wex Tor Lang Hol Bram Cros Fal Gil Ken Lor"
)
TOWN_ENDS = listed("ford ton ham stead well mere dale port field bridge gate haven mouth burn cliff")
BRAND_STARTS = listed("Zav Kel Mir Pol Dex Nov Lum Tor Vel Bex Sol Ral Qui Fir Gal Hep Jun Cas Wim Ost")
BRAND_ENDS = listed("ano era ulo ix ena ota umi ari eko olo ade ium ella oro")
NONSENSE_STARTS = listed(
    "blor grim wack snef tull drog plim vask chob fren zint mund golf skep trosk yulp nark hust pell quab"
)
NONSENSE_ENDS = listed("el ing ow ish ant ock uff ine al y er ick onk asp")
COLOURS = listed("red blue green yellow black white brown grey orange pink purple")
MATERIALS = listed(
    "oak pine steel wool cotton glass tin copper leather plastic rubber paper stone silk clay cork brass bamboo"
)
OBJECTS = listed(
    "pen towel photo passport coat key card cup map letter lamp spoon hat book rope cap mirror chair pot bell"
)
