"""What letters and answers of the complaint desk are made of: every word, and every sentence that there is."""

import dataclasses

NAMES = [
  "anna",
  "ben",
  "clara",
  "david",
  "emma",
  "felix",
  "grace",
  "henry",
  "iris",
  "jonas",
  "kate",
  "leo",
  "maria",
  "noah",
  "olga",
  "paul",
]
PRODUCTS = [
  "kettle",
  "toaster",
  "lamp",
  "radio",
  "blender",
  "heater",
  "camera",
  "printer",
  "clock",
  "fan",
  "phone",
  "tablet",
  "speaker",
  "iron",
  "mixer",
  "scale",
]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
VOUCHERS = (5, 10, 15, 20, 30)  # per cent off

REMEDIES = {
  "refund": "we will refund your order .",
  "replacement": "we will send a replacement .",
  "repair": "we will send a technician .",
  "part": "we will send the part .",
  "discount": "we will give a discount .",
  "guide": "we will send a guide .",
}


@dataclasses.dataclass(frozen=True)
class Issue:
  """What is wrong, and what would be right: the remedy, the next best one, honest days, a photo as proof."""

  text: str
  remedy: str
  second: str
  days: int
  photo: bool


ISSUES = (
  Issue("arrived broken", "replacement", "refund", days=4, photo=True),
  Issue("arrived late", "discount", "refund", days=1, photo=False),
  Issue("never arrived", "refund", "replacement", days=7, photo=False),
  Issue("was billed twice", "refund", "discount", days=3, photo=False),
  Issue("stopped working", "repair", "replacement", days=9, photo=False),
  Issue("is the wrong size", "replacement", "refund", days=5, photo=True),
  Issue("lacks a part", "part", "replacement", days=6, photo=True),
  Issue("is hard to use", "guide", "repair", days=2, photo=False),
)

# Every sentence there is, by kind; {name}, {product}, {days} and {percent} stand for one word each.
SENTENCES = {
  "greeting": ("dear {name} ,", "hello {name} ,"),
  "generic greeting": ("dear customer ,", "hello ,"),
  "apology": ("i am sorry .", "we apologise .", "i am sorry about your {product} ."),
  "empathy": ("i understand how annoying this is .", "that must be very annoying ."),
  "blame": ("perhaps you used it wrongly .", "this is your own fault ."),
  "check": ("i checked your {product} order .", "your {product} is on my desk ."),
  "deadline": ("it takes {days} .", "you will have it within {days} ."),
  "photo": ("please send a photo .", "please send us a photo of it ."),
  "voucher": ("here is {percent} % off .", "we add {percent} % off ."),
  "filler": ("your call is important to us .", "we are a modern company .", "many people like our shop ."),
  "closing": ("kind regards .", "have a nice day ."),
}
LETTERS = (
  "{name} writes {manner} : my {product} {issue} .",
  "{kind} letter from {name} : my {product} {issue} .",
  "my {product} {issue} . yours {manner} , {name} .",
)
UNSEEN_LETTER = "my {product} {issue} . {name} writes {manner} ."  # of words that are in the others
