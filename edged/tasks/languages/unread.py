"""What a reply says, in the language of a text, where the model does not read that language. Only data. Pure."""

from collections.abc import Mapping

from edged.tasks.text import Language

UNREAD: Mapping[Language, str] = {
    "ar": "عذرًا، لا أفهم اللغة العربية.",
    "bg": "Съжалявам, не разбирам български.",
    "ca": "Ho sento, no entenc el català.",
    "cs": "Promiňte, češtině nerozumím.",
    "da": "Beklager, jeg forstår ikke dansk.",
    "de": "Es tut mir leid, ich verstehe kein Deutsch.",
    "el": "Λυπάμαι, δεν καταλαβαίνω ελληνικά.",
    "en": "Sorry, I do not understand English.",
    "es": "Lo siento, no entiendo el español.",
    "fi": "Valitettavasti en ymmärrä suomea.",
    "fr": "Désolé, je ne comprends pas le français.",
    "he": "מצטער, אני לא מבין עברית.",
    "hi": "क्षमा करें, मैं हिन्दी नहीं समझता।",
    "hu": "Sajnálom, nem értek magyarul.",
    "id": "Maaf, saya tidak mengerti bahasa Indonesia.",
    "it": "Mi dispiace, non capisco l'italiano.",
    "ja": "申し訳ありませんが、日本語は分かりません。",
    "ko": "죄송하지만 한국어를 이해하지 못합니다.",
    "nl": "Het spijt me, ik begrijp geen Nederlands.",
    "no": "Beklager, jeg forstår ikke norsk.",
    "pl": "Przepraszam, nie rozumiem po polsku.",
    "pt": "Desculpe, não entendo português.",
    "ro": "Îmi pare rău, nu înțeleg limba română.",
    "ru": "Извините, я не понимаю по-русски.",
    "sv": "Tyvärr förstår jag inte svenska.",
    "th": "ขออภัย ฉันไม่เข้าใจภาษาไทย",
    "tr": "Üzgünüm, Türkçe anlamıyorum.",
    "uk": "Вибачте, я не розумію української.",
    "vi": "Xin lỗi, tôi không hiểu tiếng Việt.",
    "zh": "抱歉,我看不懂中文。",
}
