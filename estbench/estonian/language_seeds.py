"""What `estbench.estonian.language` knows about languages that share a script: frequent words and a few sentences of
each, written for this purpose. Estonian and English, which scores depend on most, have more of both."""

SEEDS = {
    # Latin script
    "et": """
        ja on ei see et ta oli kui ka aga mis oma või kes seda selle nii siis veel need nende meie teie mina sina tema
        ma sa me te nad mind sind teda minu sinu tema juba ainult väga olla olid ole olen oled oleme olete polnud pole
        saab saanud sai saada peab pidi võib võiks võivad tuleb tuli teha teeb tegi läks läheb kuid sest kuna kus kuhu
        kust millal miks kuidas milline mitu palju vähem rohkem enne pärast ajal jooksul kohta koos ilma peal all sees
        üle läbi ümber juures vastu pool kuni üks kaks kolm neli viis kuus seitse kaheksa üheksa kümme esimene teine
        uus vana suur väike hea halb pikk lühike kõik mõni iga sama muu teised inimesed aasta aastat päev päeva linn
        maa riik eesti keel keele sõna sõnad tunda öelda ütles ütleb näiteks siiski samuti lisaks seetõttu ning nagu
        ehk mitte ära kas jah palun aitäh tere võimalik oluline vajalik kirjuta vasta küsimus vastus tekst lause
        Hommikul ärkasin vara ja vaatasin aknast välja, sest öösel oli sadanud lund. Õues oli külm, kuid päike paistis
        ning lapsed mängisid juba hoovis. Pärast sööki läksime metsa, kus kuulsime lindude laulu ja nägime jäneseid.
        Vanaema rääkis, kuidas tema noorpõlves elati: kõik töö tehti kätega ja õhtuti lauldi koos naabritega. Keegi ei
        kurtnud, sest elu oli küll raske, aga üksteist aidati alati. Linnas ehitatakse uut silda, mis peaks valmima
        järgmisel sügisel. Ehitajate sõnul on tööd kulgenud plaanipäraselt, ehkki ilmastik on põhjustanud viivitusi.
        Teadlased uurisid, millist mõju avaldab müra loomadele, ja jõudsid järeldusele, et paljud liigid väldivad
        teede lähedust. Valitsus arutas eelnõu, mille kohaselt suurendatakse toetusi peredele ja ettevõtetele. Minister
        lubas, et muudatused jõustuvad uuest aastast, kui riigikogu need heaks kiidab. Täname teid kirja eest; palume
        vabandust hilinenud vastuse pärast. Kui teil on küsimusi, võtke meiega ühendust telefoni või e-posti teel.
        Raamatukogus saab laenutada teoseid, kasutada arvutit ja osaleda üritustel. Üliõpilased õpivad ülikoolis
        ajalugu, keeleteadust, füüsikat ning matemaatikat. Retsept on lihtne: sega jahu, munad ja piim, lisa soola ning
        küpseta pannil kuldpruuniks. Aidake hoida loodust, ärge visake prügi maha. Kunagi elas kuningas, kellel oli
        tütar. Sõitsime rongiga Tallinnast Tartusse ja tagasi. Nende jaoks, kelle kodu hävis, koguti raha ja riideid.
        """,
    "en": """
        the of and to in a is that for it was on are as with his they at be this from have or by one had not but what
        all were when we there can an your which their said if do will each about how up out them then she many some
        so these would other into has more her two like him see time could no make than first been its who now people
        my made over did down only way find use may water long little very after words called just where most know get
        through back much before go good new write our used me man too any day same right look think also around
        another came come work three word must because does part even place well such here take why things help put
        different away again off went old number great tell men say small every found still between name should home
        big give air line set own under read last never us left end along while might next sound below saw something
        thought both few those always looked show large often together asked house don't world going want school
        important until form food keep children feet land side without boy once animal life enough took sometimes four
        This morning I woke up early and looked out of the window, because it had been snowing during the night. It was
        cold outside, but the sun was shining and the children were already playing in the yard. After breakfast we
        walked to the forest, where we heard birds singing. My grandmother told us how people used to live when she was
        young: all the work was done by hand, and in the evenings everybody sang together. A new bridge is being built
        across the river, and it should be finished by next autumn. Researchers have studied the effects of noise on
        wildlife and concluded that many species avoid roads. The government discussed a proposal which would increase
        support for families and businesses. Thank you for your letter; we apologize for the delay. If you have any
        questions, please contact us by phone or email. The recipe is simple: mix the flour, eggs and milk, add some
        salt and fry until golden brown. Once upon a time there lived a king who had a daughter. They would rather
        have stayed at home, although nobody knew whether the weather would change. Students learn history, physics,
        language and mathematics at the university. However, there are several reasons why this approach doesn't work.
        """,
    "fi": """
        ja on ei että se oli hän mutta kun myös joka niin ovat mukaan kuin sen tai ole olla hänen jo vain vielä nyt
        sitten ne he me te minä sinä minun sinun meidän teidän heidän tämä tämän nämä joka jotka jonka mitä mikä missä
        mihin miksi miten koska jos vaikka kuitenkin esimerkiksi sekä eli hyvin paljon enemmän vähän ennen jälkeen
        aikana kanssa ilman alla päällä läpi yksi kaksi kolme neljä viisi kuusi seitsemän kahdeksan ensimmäinen toinen
        uusi vanha suuri pieni hyvä huono kaikki jokainen sama muut ihmiset vuosi vuonna vuotta päivä kaupunki maa
        suomi suomen kieli sana voi voivat täytyy pitää saada sai tulee tuli tehdä teki menee meni sanoi olisi ollut
        Aamulla heräsin aikaisin ja katsoin ikkunasta ulos, sillä yöllä oli satanut lunta. Ulkona oli kylmä, mutta
        aurinko paistoi ja lapset leikkivät jo pihalla. Aamiaisen jälkeen lähdimme metsään, jossa kuulimme lintujen
        laulavan. Isoäiti kertoi, miten hänen nuoruudessaan elettiin: kaikki työ tehtiin käsin ja iltaisin laulettiin
        yhdessä naapureiden kanssa. Kaupunkiin rakennetaan uutta siltaa, jonka pitäisi valmistua ensi syksynä.
        Tutkijat selvittivät, miten melu vaikuttaa eläimiin, ja totesivat, että monet lajit välttävät teitä. Hallitus
        käsitteli esitystä, joka lisäisi perheiden ja yritysten tukea. Kiitos kirjeestäsi, anteeksi viivästys.
        Jos teillä on kysyttävää, ottakaa meihin yhteyttä puhelimitse tai sähköpostilla. Hyvää huomenta, mitä kuuluu?
        """,
    "sv": """
        och att det i en som på är av för den till med de har inte om ett han men var jag sig från vi så kan när nu
        hade hon skulle eller vid mot min mig mycket också ut bara ska under upp alla över vara blev bli efter utan
        finns vad där hur varför vilken vilka man du ni dem deras vår våra er hans hennes sin sina detta dessa denna
        någon något några ingen mer mindre innan sedan mellan genom två tre fyra fem första andra ny gammal stor liten
        bra dålig varje samma människor år dag stad land svenska språk ord måste får fick kommer kom göra gjorde går
        På morgonen vaknade jag tidigt och tittade ut genom fönstret, för det hade snöat under natten. Det var kallt ute
        men solen sken och barnen lekte redan på gården. Efter frukosten gick vi till skogen där vi hörde fåglarna
        sjunga. Mormor berättade hur man levde när hon var ung: allt arbete gjordes för hand och på kvällarna sjöng man
        tillsammans. I staden byggs en ny bro som ska bli färdig nästa höst. Forskare har undersökt hur buller påverkar
        djuren. Regeringen diskuterade ett förslag som ökar stödet till familjer och företag. Tack för ditt brev.
        """,
    "no": """
        og i det er på som en for til at med av de ikke har han den fra et om var jeg seg vi så kan men når nå hadde
        hun skulle eller ved mot min meg mye også ut bare skal under opp alle over være ble bli etter uten finnes hva
        der hvor hvorfor hvordan hvilken hvilke man du dere dem deres vår våre hans hennes sin sine dette disse denne
        noen noe ingen mer mindre før siden mellom gjennom to tre fire fem første andre ny gammel stor liten bra
        hver samme mennesker år dag by land norsk språk ord må fikk får kommer kom gjøre gjorde går gikk blitt vært
        Om morgenen våknet jeg tidlig og så ut av vinduet, for det hadde snødd i løpet av natten. Det var kaldt ute, men
        sola skinte og barna lekte allerede på gårdsplassen. Etter frokost gikk vi til skogen, der vi hørte fuglene
        synge. Bestemor fortalte hvordan man levde da hun var ung: alt arbeid ble gjort for hånd, og om kvelden sang man
        sammen. I byen bygges det en ny bro som skal bli ferdig neste høst. Forskere har undersøkt hvordan støy påvirker
        dyrene. Regjeringen diskuterte et forslag som øker støtten til familier og bedrifter. Takk for brevet ditt.
        """,
    "da": """
        og i det er på som en for til at med af de ikke har han den fra et om var jeg sig vi så kan men når nu havde
        hun skulle eller ved mod min mig meget også ud kun skal under op alle over være blev blive efter uden findes
        hvad der hvor hvorfor hvordan hvilken hvilke man du jer dem deres vores hans hendes sin sine dette disse denne
        nogen noget nogle ingen mere mindre før siden mellem gennem to tre fire fem første anden ny gammel stor lille
        god hver samme mennesker år dag by land dansk sprog ord må fik får kommer kom gøre gjorde går gik blevet været
        Om morgenen vågnede jeg tidligt og kiggede ud ad vinduet, for det havde sneet i løbet af natten. Det var koldt
        udenfor, men solen skinnede, og børnene legede allerede i gården. Efter morgenmaden gik vi ud i skoven, hvor vi
        hørte fuglene synge. Mormor fortalte, hvordan man levede, da hun var ung: alt arbejde blev gjort i hånden, og
        om aftenen sang man sammen. I byen bygges der en ny bro, som skal stå færdig næste efterår. Forskere har
        undersøgt, hvordan støj påvirker dyrene. Regeringen drøftede et forslag, der øger støtten til familier.
        """,
    "de": """
        der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat
        dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis
        mehr durch man sein wurde sei ich du wir ihr mein dein sein unser euer was wer wo warum wann wenn weil obwohl
        jedoch zum Beispiel sehr viel weniger ohne unter zwischen eins zwei drei vier fünf erste zweite neu alt groß
        klein gut schlecht alle jeder gleich andere menschen jahr tag stadt land deutsch sprache wort kann muss soll
        Am Morgen wachte ich früh auf und schaute aus dem Fenster, denn in der Nacht hatte es geschneit. Draußen war es
        kalt, aber die Sonne schien und die Kinder spielten schon im Hof. Nach dem Frühstück gingen wir in den Wald, wo
        wir die Vögel singen hörten. Die Großmutter erzählte, wie man in ihrer Jugend lebte: Alle Arbeit wurde von Hand
        gemacht und abends sang man gemeinsam. In der Stadt wird eine neue Brücke gebaut, die im nächsten Herbst fertig
        sein soll. Forscher haben untersucht, wie sich Lärm auf Tiere auswirkt. Vielen Dank für Ihren Brief.
        """,
    "nl": """
        de en van het een in is dat op te zijn met voor niet aan er die hij was als ook bij om maar door over naar uit
        dan nog wel kan heeft deze dit zij ze we wij je jij jullie ik mijn jouw zijn haar ons onze hun wat wie waar
        waarom wanneer hoe welke omdat hoewel echter bijvoorbeeld zeer veel meer minder zonder onder tussen tot twee
        drie vier vijf eerste tweede nieuw oud groot klein goed slecht alle ieder zelfde andere mensen jaar dag stad
        land nederlands taal woord moet moeten werd worden wordt had hebben ging gaat komt kwam maken maakt zegt zei
        In de ochtend werd ik vroeg wakker en keek uit het raam, want het had die nacht gesneeuwd. Buiten was het koud,
        maar de zon scheen en de kinderen speelden al op het plein. Na het ontbijt gingen we naar het bos, waar we de
        vogels hoorden zingen. Oma vertelde hoe men leefde toen zij jong was: al het werk werd met de hand gedaan en 's
        avonds zong men samen. In de stad wordt een nieuwe brug gebouwd die volgend najaar klaar moet zijn.
        """,
    "lv": """
        un ir ka no uz ar kas par to tas bet tā vai lai pēc pie kā arī viņš viņa viņi es tu mēs jūs savu mans tavs mūsu
        jūsu viņu šis šī šie tie nav bija būs būt tiek tika var varēja vajag jābūt daudz vairāk mazāk ļoti tikai vēl jau
        kad kur kāpēc kāds kura kurš jo lai gan tomēr piemēram bez zem starp caur līdz pirms laikā kopā viens divi trīs
        četri pieci pirmais otrais jauns vecs liels mazs labs slikts visi katrs cits cilvēki gads gadā diena pilsēta
        valsts latvijas latviešu valoda vārds teica saka darīt nāk iet
        No rīta es pamodos agri un paskatījos pa logu, jo naktī bija snidzis. Ārā bija auksts, bet saule spīdēja un
        bērni jau spēlējās pagalmā. Pēc brokastīm mēs gājām uz mežu, kur dzirdējām putnus dziedam. Vecmāmiņa stāstīja,
        kā dzīvoja viņas jaunībā: visu darbu darīja ar rokām un vakaros dziedāja kopā ar kaimiņiem. Pilsētā tiek būvēts
        jauns tilts, kam jābūt gatavam nākamajā rudenī. Zinātnieki pētīja, kā troksnis ietekmē dzīvniekus. Paldies!
        """,
    "lt": """
        ir kad į yra iš su buvo tai bet kaip jis ji jie o už ar po taip pat kurie kuris kuri dar jau tik nuo iki per
        prie apie mano tavo mūsų jūsų jų aš tu mes jūs savo šis ši šie tie nėra bus būti gali galėjo reikia turi turėjo
        daug daugiau mažiau labai kai kur kodėl kas koks nes nors tačiau pavyzdžiui be tarp prieš metu kartu vienas du
        trys keturi penki pirmas antras naujas senas didelis mažas geras blogas visi kiekvienas kitas žmonės metai metų
        diena miestas šalis lietuvos lietuvių kalba žodis sakė sako daryti ateina eina
        Ryte pabudau anksti ir pažiūrėjau pro langą, nes naktį snigo. Lauke buvo šalta, bet švietė saulė ir vaikai jau
        žaidė kieme. Po pusryčių ėjome į mišką, kur girdėjome paukščių giesmes. Močiutė pasakojo, kaip buvo gyvenama jos
        jaunystėje: visi darbai buvo dirbami rankomis, o vakarais dainuota kartu su kaimynais. Mieste statomas naujas
        tiltas, kuris turėtų būti baigtas kitą rudenį. Mokslininkai tyrė, kaip triukšmas veikia gyvūnus. Ačiū jums!
        """,
    "pl": """
        i w na z do się nie że jest to o jak ale po co tak za od przez przy dla ten ta te tego tej tym był była było
        były będzie są być może można trzeba bardzo tylko już jeszcze kiedy gdzie dlaczego który która które ponieważ
        chociaż jednak na przykład bez pod między oraz ja ty my wy on ona oni mój twój nasz wasz ich jego jej dużo
        więcej mniej jeden dwa trzy cztery pięć pierwszy drugi nowy stary duży mały dobry zły wszyscy każdy inny ludzie
        rok lata dzień miasto kraj polski język słowo powiedział mówi robić idzie
        Rano obudziłem się wcześnie i spojrzałem przez okno, ponieważ w nocy padał śnieg. Na dworze było zimno, ale
        świeciło słońce, a dzieci bawiły się już na podwórku. Po śniadaniu poszliśmy do lasu, gdzie słyszeliśmy śpiew
        ptaków. Babcia opowiadała, jak żyło się w jej młodości. W mieście buduje się nowy most, który ma być gotowy
        przyszłej jesieni. Naukowcy zbadali, jak hałas wpływa na zwierzęta. Dziękujemy za list.
        """,
    "cs": """
        a v je na se že s to z do o i ve jsem jako by ale pro si které jeho být byl byla bylo byli bude jsou není také
        při už jen ještě když kde proč který která protože ačkoli však například bez pod mezi nebo já ty my vy on ona
        oni můj tvůj náš váš jejich mnoho více méně velmi jeden dva tři čtyři pět první druhý nový starý velký malý
        dobrý špatný všichni každý jiný lidé rok let den město země český jazyk slovo řekl říká dělat jde může musí
        Ráno jsem se probudil brzy a podíval se z okna, protože v noci sněžilo. Venku byla zima, ale svítilo slunce a
        děti si už hrály na dvoře. Po snídani jsme šli do lesa, kde jsme slyšeli zpívat ptáky. Babička vyprávěla, jak se
        žilo v jejím mládí. Ve městě se staví nový most, který má být hotový příští podzim. Děkujeme za váš dopis.
        """,
    "fr": """
        de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec ou son mais
        comme on aux cette ses était ont elle nous vous je tu ils elles leur leurs mon ton notre votre être avoir fait
        faire peut tout tous même aussi très bien sans sous entre après avant pendant quand où pourquoi comment parce
        si donc alors deux trois quatre cinq premier nouveau vieux grand petit bon mauvais chaque autre gens année jour
        ville pays français langue mot dit c'est qu'il n'est d'un l'homme j'ai
        Le matin, je me suis réveillé tôt et j'ai regardé par la fenêtre, car il avait neigé pendant la nuit. Il faisait
        froid dehors, mais le soleil brillait et les enfants jouaient déjà dans la cour. Après le petit déjeuner, nous
        sommes allés dans la forêt, où nous avons entendu chanter les oiseaux. Grand-mère racontait comment on vivait
        quand elle était jeune. Merci pour votre lettre; nous vous prions d'excuser ce retard.
        """,
    "es": """
        de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si sin sobre
        este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde está mi porque qué sólo
        han yo hay vez puede todos así nos ni parte tiene él uno donde bien tiempo mismo ese ahora cada otro después
        te otros aunque esa eso hace otra gobierno tan durante siempre día tanto ella tres sí hacer mucho ciudad país
        nuevo viejo grande pequeño bueno malo gente año español lengua palabra dijo dice cómo cuándo dónde usted ellos
        Por la mañana me desperté temprano y miré por la ventana, porque había nevado durante la noche. Hacía frío
        afuera, pero brillaba el sol y los niños ya jugaban en el patio. Después del desayuno fuimos al bosque, donde
        oímos cantar a los pájaros. La abuela contaba cómo se vivía cuando ella era joven. Gracias por su carta.
        """,
    "it": """
        di e il la che in a per un è del una con non sono le si da i al come più lo anche dei della nel ha alla ma gli
        o se su questo questa io tu lui lei noi voi loro mio tuo nostro vostro essere avere era erano stato fatto fare
        può tutto tutti molto bene senza sotto tra dopo prima durante quando dove perché cosa chi quale poi così ancora
        già sempre mai due tre quattro cinque primo nuovo vecchio grande piccolo buono cattivo ogni altro gente anno
        giorno città paese italiano lingua parola ha detto dice delle dell'anno nella sulla dalla degli agli
        La mattina mi sono svegliato presto e ho guardato fuori dalla finestra, perché durante la notte aveva nevicato.
        Fuori faceva freddo, ma il sole splendeva e i bambini giocavano già nel cortile. Dopo colazione siamo andati nel
        bosco, dove abbiamo sentito cantare gli uccelli. La nonna raccontava come si viveva quando era giovane. Grazie.
        """,
    "pt": """
        de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou
        ser quando muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos ter seus
        quem nas me esse eles estão você tinha foram essa num nem suas meu às minha têm numa pelos havia seja qual será
        nós tenho lhe deles essas esses pelas este dele tu te vocês nosso nossa dois três quatro cinco primeiro novo
        velho grande pequeno bom mau cada outro gente ano dia cidade país português língua palavra disse diz são então
        De manhã acordei cedo e olhei pela janela, porque tinha nevado durante a noite. Fazia frio lá fora, mas o sol
        brilhava e as crianças já brincavam no pátio. Depois do café da manhã fomos à floresta, onde ouvimos os pássaros
        cantar. A avó contava como se vivia quando ela era jovem. Obrigado pela sua carta; pedimos desculpas.
        """,
    "ro": """
        de și în a la cu pe nu că o este un din mai care au fost pentru ca să se sau dar prin după între fără sub când
        unde cum ce cine el ea noi voi ei ele eu tu meu tău nostru lor lui sunt era erau fi are avea poate trebuie
        foarte mult mulți toate toți fiecare alt altă acest această aceste acum atunci încă deja doi trei patru cinci
        primul nou vechi mare mic bun rău oameni an ani zi oraș țară român limba cuvânt spus spune pentru că deci
        Dimineața m-am trezit devreme și m-am uitat pe fereastră, pentru că ninsese în timpul nopții. Afară era frig,
        dar soarele strălucea și copiii se jucau deja în curte. După micul dejun am mers în pădure, unde am auzit
        păsările cântând. Bunica povestea cum se trăia când era ea tânără. Vă mulțumim pentru scrisoare.
        """,
    "hu": """
        a az és hogy nem is egy ez van volt de meg csak már ha még mint vagy ki mi ami aki amely amelyek azt ezt itt ott
        hol mikor miért hogyan mert bár azonban például nélkül alatt között után előtt során együtt én te ő mi ti ők
        lesz lett lehet kell tud nagyon sok több kevés minden mindenki más két három négy öt első második új régi nagy
        kicsi jó rossz emberek év nap város ország magyar nyelv szó mondta mondja csinál megy jön volna fel le ki be
        Reggel korán felébredtem és kinéztem az ablakon, mert éjszaka havazott. Kint hideg volt, de sütött a nap, és a
        gyerekek már játszottak az udvaron. Reggeli után elmentünk az erdőbe, ahol hallottuk a madarak énekét. Nagymama
        elmesélte, hogyan éltek fiatal korában. A városban új hidat építenek, amelynek jövő őszre kell elkészülnie.
        """,
    "tr": """
        ve bir bu da de için ile çok olarak daha o gibi ne var ama kadar sonra en olan ben sen biz siz onlar benim senin
        bizim sizin onun olduğu değil her ya şey mı mi mu ki önce şimdi nasıl neden nerede hangi kim çünkü eğer ancak
        örneğin hem hiç bütün başka iki üç dört beş ilk yeni eski büyük küçük iyi kötü insanlar yıl gün şehir ülke türk
        dil kelime dedi diyor yapmak gidiyor geldi oldu olur olan edildi edilen olabilir gerekir vardır yoktur
        Sabah erken uyandım ve pencereden dışarı baktım, çünkü gece kar yağmıştı. Dışarısı soğuktu ama güneş parlıyordu
        ve çocuklar bahçede oynuyordu. Kahvaltıdan sonra kuşların şarkılarını duyduğumuz ormana gittik. Büyükannem
        gençliğinde nasıl yaşadıklarını anlattı. Şehirde gelecek sonbaharda bitecek yeni bir köprü yapılıyor.
        """,
    "vi": """
        và của là có trong được cho một không các những với người đã này để khi từ đến như về cũng ra nhiều vào tôi bạn
        anh chị em ông bà chúng ta họ nó mình đó đây nào gì ai sao thế vì nên nhưng nếu thì mà hay hoặc rất hơn sau
        trước trên dưới giữa đang sẽ phải làm đi lại còn chỉ hai ba bốn năm đầu mới cũ lớn nhỏ tốt xấu mọi khác ngày
        nước thành phố tiếng việt từ nói biết thấy học sinh viên đại học gia đình cuộc sống
        Buổi sáng tôi thức dậy sớm và nhìn ra cửa sổ, vì đêm qua trời có tuyết. Bên ngoài lạnh nhưng mặt trời chiếu sáng
        và trẻ em đã chơi ngoài sân. Sau bữa sáng chúng tôi đi vào rừng, nơi chúng tôi nghe thấy tiếng chim hót. Bà kể
        lại cuộc sống thời còn trẻ. Cảm ơn bạn đã gửi thư cho chúng tôi.
        """,
    "sw": """
        na ya wa kwa ni katika la za cha kuwa hii hiyo huo hilo hizi hizo yake wake zao yao watu mtu lakini pia kama au
        si sana zaidi baada kabla wakati ambao ambayo ambaye bila chini juu kati mimi wewe yeye sisi ninyi wao wangu
        wako wetu wenu alikuwa walikuwa atakuwa inaweza lazima kufanya kwenda alisema anasema gani nini nani wapi lini
        kwanini jinsi moja mbili tatu nne tano kwanza mpya kubwa ndogo nzuri mbaya wote kila mwingine mwaka siku mji
        nchi lugha kiswahili neno tangu hata bado tu ndani nyumba shule maji
        Asubuhi niliamka mapema na kutazama nje ya dirisha, kwa sababu mvua ilinyesha usiku. Nje kulikuwa na baridi,
        lakini jua lilikuwa linawaka na watoto walikuwa wanacheza uani. Baada ya kifungua kinywa tulikwenda msituni,
        ambako tulisikia ndege wakiimba. Bibi alitueleza jinsi walivyoishi alipokuwa kijana. Asante kwa barua yako.
        """,
    "id": """
        yang dan di dengan untuk dari ini itu pada dalam tidak ada adalah juga akan ke oleh karena mereka kami kita saya
        anda dia ia lebih bisa dapat telah sudah masih hanya seperti atau tetapi namun jika ketika saat sebelum setelah
        antara tanpa bawah atas apa siapa mana mengapa bagaimana sangat banyak sedikit semua setiap lain satu dua tiga
        empat lima pertama baru lama besar kecil baik buruk orang tahun hari kota negara bahasa indonesia kata berkata
        membuat pergi datang menjadi tersebut sebagai secara serta bahwa
        Pagi ini saya bangun lebih awal dan melihat ke luar jendela, karena hujan turun sepanjang malam. Di luar dingin,
        tetapi matahari bersinar dan anak-anak sudah bermain di halaman. Setelah sarapan kami pergi ke hutan, di mana
        kami mendengar burung berkicau. Nenek bercerita bagaimana orang hidup ketika dia masih muda. Terima kasih.
        """,
    # Cyrillic
    "ru": """
        и в не на я что он с это как по но они мы к у вы из за то же все от так бы о его для ещё только был была было
        были мне меня ты если или уже когда где почему который которая которые потому хотя однако например без под между
        очень много больше меньше быть есть может нужно один два три четыре пять первый новый старый большой маленький
        хороший плохой каждый другой люди год лет день город страна русский язык слово сказал говорит делать идёт этот
        эта эти её их наш ваш мой твой себя чтобы после перед во время вместе
        Утром я проснулся рано и посмотрел в окно, потому что ночью шёл снег. На улице было холодно, но светило солнце,
        и дети уже играли во дворе. После завтрака мы пошли в лес, где слышали пение птиц. Бабушка рассказывала, как
        жили в её молодости. В городе строится новый мост, который должен быть готов следующей осенью. Спасибо вам.
        """,
    "uk": """
        і в не на я що він з це як по але вони ми до у ви із за то ж все від так би про його для ще тільки був була було
        були мені мене ти якщо або вже коли де чому який яка які тому хоча проте наприклад без під між дуже багато
        більше менше бути є може треба один два три чотири п'ять перший новий старий великий малий добрий поганий кожен
        інший люди рік років день місто країна український мова слово сказав каже робити йде цей ця ці її їх наш ваш
        мій твій себе щоб після перед під час разом та й
        Вранці я прокинувся рано і подивився у вікно, бо вночі йшов сніг. Надворі було холодно, але світило сонце, і
        діти вже гралися на подвір'ї. Після сніданку ми пішли до лісу, де чули спів птахів. Бабуся розповідала, як жили
        в її молодості. У місті будують новий міст, який має бути готовий наступної осені. Дякуємо за ваш лист.
        """,
    "bg": """
        и в не на аз че той с това как по но те ние към у вие от за то все така би неговия за още само беше бяха ми мен
        ти ако или вече когато къде защо който която които защото макар обаче например без под между много повече
        по-малко да съм е са сме може трябва един два три четири пет първи нов стар голям малък добър лош всеки друг
        хора година години ден град страна български език дума каза казва прави отива този тази тези нея тях наш ваш
        мой твой себе си след преди по време заедно във със ще няма има
        Сутринта се събудих рано и погледнах през прозореца, защото през нощта беше валяло сняг. Навън беше студено, но
        слънцето грееше и децата вече играеха на двора. След закуска отидохме в гората, където чухме птиците да пеят.
        Баба разказваше как са живели, когато е била млада. В града се строи нов мост, който трябва да бъде готов.
        """,
    # Arabic script
    "ar": """
        في من على إلى أن هذا هذه التي الذي كان كانت لا ما عن مع هو هي هم نحن أنا أنت أو ثم قد لم لن بعد قبل بين كل بعض
        عند حتى إذا لأن لكن كما أيضا يمكن يجب جدا كثير أكثر أقل بدون تحت فوق خلال متى أين لماذا كيف من واحد اثنان ثلاثة
        الأول جديد قديم كبير صغير جيد الناس سنة عام يوم مدينة بلد العربية لغة كلمة قال يقول ذلك تلك وقد وكان وفي
        استيقظت في الصباح مبكرا ونظرت من النافذة لأن الثلج كان قد سقط في الليل. كان الجو باردا في الخارج ولكن الشمس كانت
        مشرقة والأطفال يلعبون في الساحة. بعد الفطور ذهبنا إلى الغابة حيث سمعنا غناء الطيور. شكرا لكم على رسالتكم.
        """,
    "fa": """
        و در به از که این را با است برای آن یک خود تا بر هم کرد شد بود می‌شود دارد دارند نیز اما ما من تو او شما آنها
        هر هیچ اگر یا چون زیرا ولی باید می‌تواند بسیار بیشتر کمتر بدون زیر روی میان بعد قبل چه چرا چگونه کجا کی دو سه
        چهار پنج اول جدید قدیم بزرگ کوچک خوب بد مردم سال روز شهر کشور فارسی زبان کلمه گفت می‌گوید شده بودند های هایی است
        صبح زود بیدار شدم و از پنجره به بیرون نگاه کردم، چون شب برف باریده بود. بیرون سرد بود، اما خورشید می‌درخشید و
        بچه‌ها در حیاط بازی می‌کردند. پس از صبحانه به جنگل رفتیم و آواز پرندگان را شنیدیم. از نامه شما سپاسگزاریم.
        """,
    "ur": """
        کے میں کی ہے اور سے کا کو اس یہ کہ پر نے ہیں وہ بھی ایک ہو تھا تھی تھے ہم میں تم آپ ان جو گیا گئی کر کیا نہیں تو
        ہی اپنے لیے ساتھ بعد پہلے اگر یا لیکن کیونکہ چاہیے سکتا بہت زیادہ کم بغیر نیچے اوپر درمیان کب کہاں کیوں کیسے دو
        تین چار پانچ پہلا نیا پرانا بڑا چھوٹا اچھا برا لوگ سال دن شہر ملک اردو زبان لفظ کہا کہتا رہا رہی رہے جب تک ہوا
        صبح میں جلدی اٹھا اور کھڑکی سے باہر دیکھا کیونکہ رات کو برف پڑی تھی۔ باہر سردی تھی لیکن سورج چمک رہا تھا اور بچے
        صحن میں کھیل رہے تھے۔ ناشتے کے بعد ہم جنگل میں گئے جہاں ہم نے پرندوں کے گیت سنے۔ آپ کے خط کا شکریہ۔
        """,
    # Devanagari
    "hi": """
        के में की है और से का को इस यह कि पर ने हैं वह भी एक हो था थी थे हम मैं तुम आप उन जो गया गई कर किया नहीं तो ही
        अपने लिए साथ बाद पहले अगर या लेकिन क्योंकि चाहिए सकता बहुत अधिक कम बिना नीचे ऊपर बीच कब कहाँ क्यों कैसे दो तीन
        चार पाँच पहला नया पुराना बड़ा छोटा अच्छा बुरा लोग साल दिन शहर देश हिन्दी भाषा शब्द कहा कहता रहा रही रहे जब तक हुआ
        सुबह मैं जल्दी उठा और खिड़की से बाहर देखा, क्योंकि रात को बर्फ गिरी थी। बाहर ठंड थी, लेकिन सूरज चमक रहा था और बच्चे
        आँगन में खेल रहे थे। नाश्ते के बाद हम जंगल में गए, जहाँ हमने पक्षियों का गाना सुना। आपके पत्र के लिए धन्यवाद।
        """,
    "mr": """
        आणि आहे या हे मध्ये ते तो ती की ला ने चा ची चे च्या हा ही नाही आहेत होता होती होते मी तू आम्ही तुम्ही त्या त्याने
        त्यांनी जो गेला गेली करून केले तर आपल्या साठी सोबत नंतर आधी जर किंवा पण कारण पाहिजे शकतो खूप अधिक कमी शिवाय खाली
        वर दरम्यान केव्हा कुठे का कसे दोन तीन चार पाच पहिला नवीन जुना मोठा लहान चांगला वाईट लोक वर्ष दिवस शहर देश मराठी
        भाषा शब्द म्हणाला म्हणतो झाला झाली झाले असे होऊन त्यामुळे आणखी काही एक सर्व
        सकाळी मी लवकर उठलो आणि खिडकीतून बाहेर पाहिले, कारण रात्री बर्फ पडला होता. बाहेर थंडी होती, पण सूर्य चमकत होता आणि
        मुले अंगणात खेळत होती. नाश्त्यानंतर आम्ही जंगलात गेलो, जिथे आम्ही पक्ष्यांचे गाणे ऐकले. तुमच्या पत्राबद्दल आभारी आहे.
        """,
    "ne": """
        र छ यो मा को ले का लाई पनि हो त्यो एक भने गरेको गर्न हुन थियो थिए छन् हुन्छ भएको म तिमी हामी तपाईं उनी उनले जो
        गयो गरे छैन तर आफ्नो लागि सँग पछि अघि यदि वा किनभने पर्छ सक्छ धेरै बढी कम बिना तल माथि बीच कहिले कहाँ किन कसरी
        दुई तीन चार पाँच पहिलो नयाँ पुरानो ठूलो सानो राम्रो नराम्रो मानिस वर्ष दिन शहर देश नेपाली भाषा शब्द भन्यो भन्छ
        भयो भई रहेको गर्दै गर्ने सबै अर्को देखि सम्म तथा
        बिहान म चाँडै उठेँ र झ्यालबाट बाहिर हेरेँ, किनभने राति हिउँ परेको थियो। बाहिर चिसो थियो, तर घाम लागेको थियो र
        केटाकेटीहरू आँगनमा खेलिरहेका थिए। खाजा खाएपछि हामी जङ्गल गयौं, जहाँ हामीले चराहरूको गीत सुन्यौं। पत्रको लागि धन्यवाद।
        """,
}
