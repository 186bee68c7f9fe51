using System;
using System.IO;
using Newtonsoft.Json.Linq;

static class Driver
{
    static void Main()
    {
        foreach (var call in JObject.Parse(File.ReadAllText("vectors.json"))["calls"]) Console.WriteLine(Code(call));
    }

    static string Code(JToken call)
    {
        Func<string, string> text = name => (string)call[name];
        long latest = (long)call["latest"], now = (long)call["now"];
        try
        {
            var claims = text("function") == "verify"
                ? Verdict.Verify(text("proof"), text("list"), text("op"), text("nonce"), text("body"), now)
                : Verdict.VerifyOffline(text("proof"), text("list"), text("fingerprint"), latest, now);
            return (string)claims["code"];
        }
        catch (Exception)
        {
            return "";
        }
    }
}
