"""Short statements with their sentiment, by which a new model is judged before it is used. Only data. Pure.

They are none of the examples of the built-in prompts. Half of each language's are positive.
"""

from collections.abc import Mapping

from edged.tasks.text import Language

_EN_POSITIVE = (
    "I got the job!",
    "The soup was delicious.",
    "Our team won the final.",
    "She helped me without being asked.",
    "The new chair is really comfortable.",
    "What a lovely morning!",
    "The doctor says I am healthy again.",
    "The staff were friendly and quick.",
    "I finally fixed the bike, and it runs perfectly.",
    "My daughter took her first steps today.",
    "The concert was wonderful.",
    "This update made everything faster.",
    "They refunded me at once, great service.",
    "I slept very well.",
    "The garden looks beautiful this year.",
    "Best coffee in town.",
    "He apologised and we are friends again.",
    "The room was clean and quiet.",
    "I love the colour of this jacket.",
    "We laughed the whole evening.",
)
_EN_NEGATIVE = (
    "I lost my wallet on the bus.",
    "The soup was cold and tasteless.",
    "Our flight was cancelled again.",
    "He shouted at me in front of everyone.",
    "The new chair broke after two days.",
    "What a miserable morning.",
    "The pain is getting worse.",
    "The staff were rude and slow.",
    "My bike was stolen last night.",
    "Nobody came to my birthday.",
    "The concert was a disappointment.",
    "This update broke everything.",
    "They refuse to refund me, terrible service.",
    "I could not sleep because of the noise.",
    "The garden died in the drought.",
    "Worst coffee I ever had.",
    "He lied to me, and I cannot forgive him.",
    "The room was dirty and smelled of smoke.",
    "I regret buying this jacket.",
    "We argued the whole evening.",
)
_ZH_POSITIVE = (
    "我被录取了,太高兴了!",
    "汤很好喝。",
    "我们队赢了决赛。",
    "她主动帮助了我,真感谢她。",
    "新椅子坐着非常舒服。",
    "今天早上的天气真好!",
    "医生说我已经康复了。",
    "工作人员热情又周到。",
    "自行车终于修好了,骑起来很顺。",
    "女儿今天会走路了。",
    "音乐会精彩极了。",
    "更新以后快多了,很满意。",
    "他们马上退了款,服务真好。",
    "昨晚睡得很香。",
    "今年的花园真漂亮。",
    "这是城里最好喝的咖啡。",
    "他道了歉,我们又是好朋友了。",
    "房间干净又安静。",
    "我很喜欢这件外套的颜色。",
    "我们整晚都笑得很开心。",
)
_ZH_NEGATIVE = (
    "我把钱包丢在公交车上了,很难过。",
    "汤是凉的,一点味道也没有。",
    "航班又取消了,真让人生气。",
    "他当着大家的面骂我。",
    "新椅子两天就坏了。",
    "今天早上糟糕透了。",
    "疼得越来越厉害。",
    "工作人员态度恶劣,动作又慢。",
    "自行车昨晚被偷了。",
    "没有人来参加我的生日,很伤心。",
    "音乐会让人失望。",
    "更新以后什么都不能用了。",
    "他们拒绝退款,服务太差了。",
    "吵得整晚睡不着。",
    "花园里的花都枯死了。",
    "这是我喝过最难喝的咖啡。",
    "他骗了我,我不能原谅他。",
    "房间又脏又有烟味。",
    "我后悔买了这件外套。",
    "我们整晚都在吵架。",
)

CANARY: Mapping[Language, tuple[tuple[str, str], ...]] = {
    "en": (*((text, "positive") for text in _EN_POSITIVE), *((text, "negative") for text in _EN_NEGATIVE)),
    "zh": (*((text, "positive") for text in _ZH_POSITIVE), *((text, "negative") for text in _ZH_NEGATIVE)),
}
