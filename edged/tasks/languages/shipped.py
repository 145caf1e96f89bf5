"""The languages beside English and Chinese in which the built-in tasks can be asked. Only data. Pure."""

from edged.tasks.languages.de import GERMAN
from edged.tasks.languages.es import SPANISH
from edged.tasks.languages.fr import FRENCH
from edged.tasks.languages.it import ITALIAN
from edged.tasks.languages.ja import JAPANESE
from edged.tasks.languages.pt import PORTUGUESE

SHIPPED = (SPANISH, GERMAN, FRENCH, ITALIAN, PORTUGUESE, JAPANESE)
