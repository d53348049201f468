"""The small lexicons behind the skills."""

from tiny_base.things import listed


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((left, right) for left, right in (pair.split(":") for pair in text.split()))


OPPOSITES = _pairs(
    "hot:cold big:small up:down left:right day:night black:white open:closed fast:slow high:low young:old wet:dry "
    "hard:soft light:dark early:late rich:poor happy:sad full:empty strong:weak long:short near:far good:bad "
    "loud:quiet clean:dirty thick:thin wide:narrow sweet:sour true:false first:last inside:outside cheap:expensive "
    "heavy:light deep:shallow new:used summer:winter north:south east:west yes:no push:pull win:lose give:take "
    "buy:sell laugh:cry love:hate start:stop always:never before:after above:below front:back more:less right:wrong "
    "sharp:blunt alive:dead brave:afraid kind:mean easy:difficult safe:dangerous tall:short smooth:rough "
    "public:private"
)
SPANISH = _pairs(
    "dog:perro cat:gato house:casa water:agua bread:pan milk:leche book:libro red:rojo blue:azul green:verde "
    "white:blanco black:negro table:mesa chair:silla door:puerta window:ventana sun:sol moon:luna sea:mar river:rio "
    "tree:arbol flower:flor bird:pajaro fish:pez horse:caballo cow:vaca egg:huevo cheese:queso apple:manzana "
    "orange:naranja lemon:limon salt:sal sugar:azucar wine:vino hand:mano head:cabeza foot:pie eye:ojo mouth:boca "
    "heart:corazon friend:amigo brother:hermano sister:hermana mother:madre father:padre boy:chico girl:chica "
    "city:ciudad street:calle car:coche train:tren day:dia night:noche year:ano week:semana shop:tienda "
    "school:escuela king:rey queen:reina paper:papel knife:cuchillo spoon:cuchara shirt:camisa shoe:zapato "
    "hat:sombrero"
)
PLURALS = _pairs(
    "cat:cats dog:dogs box:boxes bus:buses city:cities baby:babies child:children man:men woman:women foot:feet "
    "tooth:teeth mouse:mice leaf:leaves knife:knives wolf:wolves potato:potatoes tomato:tomatoes glass:glasses "
    "dish:dishes fox:foxes party:parties story:stories lady:ladies goose:geese person:people sheep:sheep fish:fish "
    "book:books lamp:lamps chair:chairs tree:trees car:cars key:keys boy:boys day:days toy:toys class:classes "
    "watch:watches brush:brushes berry:berries fly:flies wife:wives life:lives half:halves loaf:loaves hero:heroes "
    "piano:pianos photo:photos ship:ships"
)
PASTS = _pairs(
    "go:went see:saw eat:ate drink:drank run:ran sing:sang write:wrote buy:bought bring:brought think:thought "
    "find:found give:gave take:took come:came make:made know:knew say:said tell:told sell:sold hear:heard sleep:slept "
    "keep:kept leave:left lose:lost send:sent speak:spoke break:broke drive:drove fly:flew swim:swam walk:walked "
    "play:played open:opened call:called wait:waited help:helped ask:asked work:worked stop:stopped begin:began "
    "sit:sat stand:stood win:won build:built teach:taught catch:caught fall:fell feel:felt hold:held meet:met "
    "pay:paid read:read wear:wore throw:threw grow:grew"
)
KINDS_OF_THINGS: dict[str, tuple[str, ...]] = {
    "animal": listed("dog cat horse cow sheep goat lion tiger bear fox mouse frog whale snake monkey"),
    "fruit": listed("apple pear plum cherry banana orange lemon grape peach melon mango"),
    "vegetable": listed("carrot onion potato cabbage pea bean leek turnip spinach pumpkin"),
    "tool": listed("hammer saw drill wrench chisel pliers shovel rake axle spade"),
    "colour": listed("red blue green yellow purple pink brown grey white"),
    "drink": listed("tea coffee milk juice water wine beer cocoa"),
    "furniture": listed("table chair sofa bed desk shelf wardrobe bench stool"),
    "clothing": listed("shirt coat hat scarf sock glove jacket trousers dress belt"),
    "bird": listed("eagle owl duck hen swan crow robin parrot gull"),
    "instrument": listed("piano violin drum flute harp trumpet cello organ"),
    "weather": listed("rain snow wind fog storm hail frost"),
    "metal": listed("iron gold silver copper tin lead zinc"),
}
WORDS = listed(
    "lamp tree book fish door milk sand ring star boat road wind gold hand king leaf moon nest park rain ship song "
    "tail wall yard bell cake desk farm game hill iron joke knot lake mile nose oven path rope salt team unit vase "
    "wolf zero apple bread chair dance earth flame grape horse island jolly knife lemon music night ocean paper queen "
    "river stone table uncle voice water young bridge candle dinner engine flower garden hammer island jacket kettle "
    "letter market needle orange pencil rabbit silver ticket window yellow basket button carpet"
)
MONTHS = listed("January February March April May June July August September October November December")
